//! Files that were valid before some of their bytes changed: the reader never panics, a refusal names the line and what
//! is wrong on it, and what is accepted is what is written.

use std::{env, iter};

use dpo_train::data::{Message, Pair, Role, parse_pairs};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

const ROWS: [&str; 7] = [
    r#"{"prompt": "Größe?", "chosen": " 3 km.", "rejected": " Wer weiß."}"#,
    r#"{"chosen": "The sky is blue.", "rejected": "The sky is \u0067reen."}"#,
    r#"{"chosen": "\n\nHuman: Hi\n\nAssistant: Yes?", "rejected": "\n\nHuman: Hi\n\nAssistant: No."}"#,
    r#"{"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "Hi?"}], "chosen": [{"role": "assistant", "content": "Yes."}], "rejected": [{"role": "assistant", "content": "No."}]}"#,
    r#"{"chosen": [{"content": "Hi?", "role": "user"}, {"content": "Yes.", "role": "assistant"}], "rejected": [{"content": "Hi?", "role": "user"}, {"content": "No.", "role": "assistant"}]}"#,
    r#"{"prompt": "Hi?", "chosen": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Yes."}], "rejected": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "No."}]}"#,
    r#"{"prompt": "Hi?", "chosen": "Yes.", "rejected": "No.", "tools": null}"#,
];

/// What the grammar and the formats are made of.
const PIECES: [&str; 24] = [
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\",
    "\n",
    "\r\n",
    "\u{feff}",
    "null",
    "true",
    "-1e999",
    "\"\"",
    "{}",
    "\\ud800",
    "\0",
    "\"prompt\": ",
    "\"chosen\": \"a\", ",
    "\"role\": \"user\", ",
    "\"tool_calls\": [1], ",
    "\"content\"",
    "\n\nAssistant:",
];

fn valid_file(rng: &mut StdRng) -> Vec<u8> {
    let rows: Vec<&str> =
        (0..rng.random_range(1..5)).map(|_| ROWS[rng.random_range(0..ROWS.len())]).collect();
    let text = match rng.random_range(0..4) {
        0 => format!("[{}]", rows.join(", ")),
        1 => format!("[\n  {}\n]\n", rows.join(",\n  ").replace(", \"", ",\n    \"")),
        2 => format!("\u{feff}{}\r\n", rows.join("\r\n\r\n")),
        _ => rows.join("\n"),
    };
    text.into_bytes()
}

fn mutate(bytes: &mut Vec<u8>, rng: &mut StdRng) {
    let at = rng.random_range(0..=bytes.len());
    let end = bytes.len().min(at + rng.random_range(0..40));
    match rng.random_range(0..6) {
        0 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
        1 => drop(bytes.drain(at..end)),
        2 => bytes.truncate(at),
        3 => {
            let copied = bytes[at..end].to_vec();
            let to = rng.random_range(0..=bytes.len());
            bytes.splice(to..to, copied);
        }
        4 => bytes.splice(at..end, []).for_each(drop),
        _ => {
            let piece = PIECES[rng.random_range(0..PIECES.len())];
            bytes.splice(at..at, piece.bytes()).for_each(drop);
        }
    }
}

/// The rows of an accepted file as another parser sees them.
fn rows(text: &str) -> Vec<Value> {
    let text = text.trim_start_matches('\u{feff}');
    match serde_json::from_str(text) {
        Ok(Value::Array(rows)) => rows,
        _ => text
            .lines()
            .filter(|line| !line.trim().is_empty())
            .map(|line| serde_json::from_str(line).unwrap())
            .collect(),
    }
}

/// Roles and contents of messages, or the text as one message without a role.
fn turns(value: &Value) -> Vec<(Option<&str>, &str)> {
    match value {
        Value::String(text) => vec![(None, text)],
        Value::Array(messages) => messages
            .iter()
            .map(|message| (Some(message["role"].as_str().unwrap()), message["content"].as_str().unwrap()))
            .collect(),
        other => panic!("{other} is accepted as a turn"),
    }
}

/// Whether the messages are these turns, in which text stands for a message of `speaker`.
fn are(messages: &[Message], turns: &[(Option<&str>, &str)], speaker: &str) -> bool {
    let role = |role| match role {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
    };
    let read = messages.iter().map(|message| (role(message.role), &*message.content));
    read.eq(turns.iter().map(|&(role, content)| (role.unwrap_or(speaker), content)))
}

/// Each turn of the row is in the pair once, and nothing else is in the pair.
fn assert_says(pair: &Pair, row: &Value) {
    for (key, value) in row.as_object().unwrap() {
        assert!(value.is_null() || ["prompt", "chosen", "rejected"].contains(&&**key), "{key} was dropped");
    }
    for (answer, key) in [(&pair.chosen, "chosen"), (&pair.rejected, "rejected")] {
        let prompt = &row["prompt"];
        let apart = !prompt.is_null()
            && are(&pair.prompt, &turns(prompt), "user")
            && are(answer, &turns(&row[key]), "assistant");
        let together = match &row[key] {
            Value::String(text) => *text == format!("{}{}", pair.prompt[0].content, answer[0].content),
            dialogue => are(&[&pair.prompt[..], answer].concat(), &turns(dialogue), ""),
        };
        let repeated = match prompt {
            Value::Null => true,
            Value::String(text) => pair.prompt.iter().any(|message| message.content == *text),
            _ => are(&pair.prompt, &turns(prompt), ""),
        };
        assert!(apart || (together && repeated), "{pair:?} was read from {row}");
    }
}

#[test]
fn valid_files_are_accepted() {
    let mut rng = StdRng::seed_from_u64(1);
    for _ in 0..500 {
        let bytes = valid_file(&mut rng);
        let pairs = parse_pairs(&bytes, "pairs.jsonl", &[]).unwrap();
        for (pair, row) in iter::zip(&pairs, rows(str::from_utf8(&bytes).unwrap())) {
            assert_says(pair, &row);
        }
    }
}

#[test]
fn mutated_files_are_refused_by_line_or_read_as_written() {
    let files: u32 = env::var("DPO_MUTATED_FILES").map_or(50_000, |files| files.parse().unwrap());
    let mut rng = StdRng::seed_from_u64(2);
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..files {
        let mut bytes = valid_file(&mut rng);
        for _ in 0..rng.random_range(1..4) {
            mutate(&mut bytes, &mut rng);
        }
        match parse_pairs(&bytes, "pairs.jsonl", &[]) {
            Ok(pairs) => {
                accepted += 1;
                let rows = rows(str::from_utf8(&bytes).unwrap());
                assert_eq!(pairs.len(), rows.len());
                iter::zip(&pairs, &rows).for_each(|(pair, row)| assert_says(pair, row));
            }
            Err(error) => {
                refused += 1;
                assert_named(&format!("{error:#}"), &bytes);
            }
        }
    }
    // Mutations are neither all harmless nor all fatal.
    assert!(accepted > files / 100 && refused > files / 10, "{accepted} accepted, {refused} refused");
}

/// A refusal says on which line, and what of it: bytes, JSON, or a key.
fn assert_named(error: &str, bytes: &[u8]) {
    if error == "pairs.jsonl: no preference pairs in it" {
        return;
    }
    let (line, reason) =
        error.strip_prefix("pairs.jsonl:").and_then(|rest| rest.split_once(": ")).expect(error);
    let line: usize = line.parse().expect(error);
    let lines: Vec<&[u8]> = bytes.split_inclusive(|&byte| byte == b'\n').collect();
    // A text that ends too early ends on the line after its last line break.
    assert!((1..=bytes.split(|&byte| byte == b'\n').count()).contains(&line), "{error}");
    let named = [
        "not JSON: ",
        "not UTF-8",
        "expected an object",
        "key \"",
        "\"prompt\"",
        "\"chosen\"",
        "\"rejected\"",
    ];
    assert!(named.iter().any(|what| reason.starts_with(what)), "{error}");
    assert!(!reason.contains(" at line "), "{error}");

    // The lines before are those of a valid file. Bytes that are no text are found before any line is looked at, and a list
    // is not valid before its last line.
    let is_list = String::from_utf8_lossy(bytes).trim_start_matches('\u{feff}').trim_start().starts_with('[');
    if reason != "not UTF-8" && !is_list {
        let before = parse_pairs(&lines[..line - 1].concat(), "pairs.jsonl", &[]);
        let problem = before.err().map(|error| format!("{error:#}"));
        assert!(
            problem.as_deref().is_none_or(|problem| problem == "pairs.jsonl: no preference pairs in it"),
            "{problem:?}, and then {error}"
        );
    }
}

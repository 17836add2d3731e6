//! Preference pairs from JSONL, in the shapes that Hugging Face data sets have.
//!
//! A line is an object with `prompt`, `chosen` and `rejected`. Each is a string, or a list of messages
//! `{"role": ..., "content": ...}`; the two may be mixed. Without `prompt`, chosen and rejected are whole
//! conversations, and the messages they begin with in common are the prompt.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::{Map, Value};

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Instructions for the whole conversation.
    System,
    /// The one who asks.
    User,
    /// The one who answers: the model.
    Assistant,
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What they say.
    pub content: String,
}

/// A prompt with two ways to go on, one of which people preferred.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// x, what came before.
    pub prompt: Vec<Message>,
    /// y_w, the preferred answer.
    pub chosen: Vec<Message>,
    /// y_l, the other answer.
    pub rejected: Vec<Message>,
}

/// Reads all pairs of a JSONL file; blank lines are skipped.
///
/// An error names the file and the line.
pub fn read_pairs(path: &Path) -> Result<Vec<Pair>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    parse_pairs(file, &path.display().to_string())
}

fn parse_pairs(source: impl Read, name: &str) -> Result<Vec<Pair>> {
    let mut pairs = Vec::new();
    for (line, number) in BufReader::new(source).lines().zip(1..) {
        let at = || format!("{name}:{number}");
        let line = line.with_context(at)?;
        if !line.trim().is_empty() {
            pairs.push(parse_pair(&line).with_context(at)?);
        }
    }
    ensure!(!pairs.is_empty(), "{name}: no preference pairs in it");
    Ok(pairs)
}

fn parse_pair(line: &str) -> Result<Pair> {
    let value: Value = serde_json::from_str(line).map_err(|error| anyhow!("not JSON: {error}"))?;
    let Value::Object(object) = value else {
        bail!("expected an object, found {}", kind(&value));
    };
    let mut chosen = answer(&object, "chosen")?;
    let mut rejected = answer(&object, "rejected")?;
    ensure!(chosen != rejected, "\"chosen\" and \"rejected\" are the same");
    let prompt = match object.get("prompt") {
        Some(value) => messages(value, "prompt", Role::User)?,
        None => {
            let common = chosen.iter().zip(&rejected).take_while(|(w, l)| w == l).count();
            ensure!(
                common > 0,
                "field \"prompt\" is missing, and \"chosen\" and \"rejected\" do not begin with the same message"
            );
            rejected.drain(..common);
            chosen.drain(..common).collect()
        }
    };
    ensure!(!prompt.is_empty(), "\"prompt\" is empty");
    for (field, answer) in [("chosen", &chosen), ("rejected", &rejected)] {
        let spoken =
            answer.iter().any(|message| message.role == Role::Assistant && !message.content.is_empty());
        ensure!(spoken, "{field:?} is empty: the assistant says nothing in it");
    }
    Ok(Pair { prompt, chosen, rejected })
}

fn answer(object: &Map<String, Value>, field: &str) -> Result<Vec<Message>> {
    let value = object.get(field).ok_or_else(|| anyhow!("field {field:?} is missing"))?;
    messages(value, field, Role::Assistant)
}

/// A list of messages, or a string as the one message of `speaker`.
fn messages(value: &Value, field: &str, speaker: Role) -> Result<Vec<Message>> {
    match value {
        Value::String(content) => Ok(vec![Message { role: speaker, content: content.clone() }]),
        Value::Array(list) => list
            .iter()
            .enumerate()
            .map(|(i, value)| message(value).with_context(|| format!("{field:?}, message {}", i + 1)))
            .collect(),
        other => bail!("{field:?}: expected a string or a list of messages, found {}", kind(other)),
    }
}

fn message(value: &Value) -> Result<Message> {
    let text = |field: &str| match value.get(field) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => bail!("{field:?}: expected a string, found {}", kind(other)),
        None => bail!("expected an object with \"role\" and \"content\", found no {field:?}"),
    };
    let role = match text("role")?.as_str() {
        "system" => Role::System,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        other => bail!("role {other:?} is none of \"system\", \"user\", \"assistant\""),
    };
    Ok(Message { role, content: text("content")? })
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(role: Role, content: &str) -> Message {
        Message { role, content: content.to_string() }
    }

    fn parse(text: &str) -> Result<Vec<Pair>> {
        parse_pairs(text.as_bytes(), "pairs.jsonl")
    }

    #[test]
    fn plain_conversational_and_mixed_lines_say_the_same() {
        let lines = [
            r#"{"prompt": "Hi?", "chosen": "Yes.", "rejected": "No."}"#,
            r#"{"prompt": [{"role": "user", "content": "Hi?"}],
                "chosen": [{"role": "assistant", "content": "Yes."}],
                "rejected": [{"role": "assistant", "content": "No."}]}"#,
            r#"{"prompt": [{"role": "user", "content": "Hi?"}], "chosen": "Yes.", "rejected": "No."}"#,
            r#"{"chosen": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Yes."}],
                "rejected": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "No."}]}"#,
        ];
        let expected = Pair {
            prompt: vec![message(Role::User, "Hi?")],
            chosen: vec![message(Role::Assistant, "Yes.")],
            rejected: vec![message(Role::Assistant, "No.")],
        };
        for line in lines {
            assert_eq!(parse(&line.replace('\n', " ")).unwrap(), std::slice::from_ref(&expected));
        }
    }

    #[test]
    fn bad_lines_are_named() {
        let good = r#"{"prompt": "p", "chosen": "a", "rejected": "b"}"#;
        let cases = [
            ("{", "not JSON"),
            ("[1]", "expected an object, found a list"),
            (r#"{"prompt": "p", "rejected": "b"}"#, r#"field "chosen" is missing"#),
            (r#"{"prompt": "p", "chosen": "a"}"#, r#"field "rejected" is missing"#),
            (r#"{"chosen": "a", "rejected": "b"}"#, r#"field "prompt" is missing"#),
            (
                r#"{"prompt": 7, "chosen": "a", "rejected": "b"}"#,
                r#""prompt": expected a string or a list of messages, found a number"#,
            ),
            (r#"{"prompt": "p", "chosen": "", "rejected": "b"}"#, r#""chosen" is empty"#),
            (r#"{"prompt": "p", "chosen": "a", "rejected": []}"#, r#""rejected" is empty"#),
            (r#"{"prompt": [], "chosen": "a", "rejected": "b"}"#, r#""prompt" is empty"#),
            (r#"{"prompt": "p", "chosen": "a", "rejected": "a"}"#, "are the same"),
            (
                r#"{"prompt": [{"role": "narrator", "content": "p"}], "chosen": "a", "rejected": "b"}"#,
                r#"role "narrator" is none of"#,
            ),
            (r#"{"prompt": [{"role": "user"}], "chosen": "a", "rejected": "b"}"#, r#"found no "content""#),
            (
                r#"{"prompt": [{"role": "user", "content": 1}], "chosen": "a", "rejected": "b"}"#,
                r#""content": expected a string, found a number"#,
            ),
        ];
        for (bad, reason) in cases {
            // The blank second line counts, though it holds no pair.
            let error = format!("{:#}", parse(&format!("{good}\n\n{bad}\n{good}\n")).unwrap_err());
            assert!(error.starts_with("pairs.jsonl:3: "), "{error}");
            assert!(error.contains(reason), "{error:?} does not say {reason:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_named() {
        let error = parse_pairs(&b"\n\xff\n"[..], "pairs.jsonl").unwrap_err();
        assert!(format!("{error:#}").starts_with("pairs.jsonl:2: "));
    }

    #[test]
    fn a_file_without_pairs_is_an_error() {
        assert!(parse("\n \n").unwrap_err().to_string().contains("no preference pairs"));
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = read_pairs(Path::new("no/such/file.jsonl")).unwrap_err();
        assert!(error.to_string().contains("no/such/file.jsonl"));
    }
}

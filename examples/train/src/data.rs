//! Preference pairs in the formats that Hugging Face data sets have, as JSONL or as one JSON list.
//!
//! A row is an object with `chosen`, `rejected` and, where the prompt is explicit, `prompt`:
//!
//! | `prompt` | `chosen`, `rejected` | what is the prompt |
//! |---|---|---|
//! | text | texts | `prompt` |
//! | none | texts | what both begin with; of the Anthropic HH dialogues up to the last `\n\nAssistant:` in it |
//! | messages | messages | `prompt`, whether or not both answers repeat it |
//! | none | messages | the messages that both begin with |
//! | text | messages | the messages that both begin with, of which `prompt` is the text of a user's (ultrafeedback_binarized) |
//!
//! A message is `{"role": ..., "content": ...}` with the role system, user or assistant. Text stands for a message: of the
//! user in a prompt, of the assistant in an answer. Nothing of a row is dropped: any other key is an error unless it
//! is null or the caller says that it may be ignored.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::error::Category;
use serde_json::value::RawValue;

use crate::json::Json;

/// What comes before an answer in the dialogues of Anthropic's HH data.
const HH_ASSISTANT: &str = "\n\nAssistant:";

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
    /// The line of the file on which its row begins, from 1.
    pub line: usize,
    /// x, what came before.
    pub prompt: Vec<Message>,
    /// y_w, the preferred answer.
    pub chosen: Vec<Message>,
    /// y_l, the other answer.
    pub rejected: Vec<Message>,
}

/// Reads all pairs of a file: JSONL, where blank lines are skipped, or one JSON list. Keys of a row that are among
/// `ignored_keys` are ignored.
///
/// An error names the file and the line.
pub fn read_pairs(path: &Path, ignored_keys: &[String]) -> Result<Vec<Pair>> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse_pairs(&bytes, &path.display().to_string(), ignored_keys)
}

/// [`read_pairs`] from the bytes of a file of this name.
pub fn parse_pairs(bytes: &[u8], name: &str, ignored_keys: &[String]) -> Result<Vec<Pair>> {
    let text = str::from_utf8(bytes)
        .map_err(|error| anyhow!("{name}:{}: not UTF-8", line_of(bytes, error.valid_up_to())))?;
    // Some editors begin a file with a byte-order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let not_json =
        |line: usize, error: serde_json::Error| anyhow!("{name}:{line}: {}", without_position(&error));
    let rows = match text.trim_start().starts_with('[') {
        true => list_rows(text).map_err(|error| not_json(error.line(), error))?,
        false => line_rows(text),
    };
    let mut pairs = Vec::with_capacity(rows.len());
    for (line, row) in rows {
        // A row of a list may run over several lines.
        let row = serde_json::from_str(row)
            .map_err(|error| not_json(line + error.line().saturating_sub(1), error))?;
        pairs.push(pair(line, row, ignored_keys).with_context(|| format!("{name}:{line}"))?);
    }
    ensure!(!pairs.is_empty(), "{name}: no preference pairs in it");
    Ok(pairs)
}

/// The rows of JSONL, each with its line.
fn line_rows(text: &str) -> Vec<(usize, &str)> {
    (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()).collect()
}

/// The rows of a JSON list, each with the line on which it begins.
fn list_rows(text: &str) -> serde_json::Result<Vec<(usize, &str)>> {
    let values: Vec<&RawValue> = serde_json::from_str(text)?;
    let mut rows = Vec::with_capacity(values.len());
    let (mut line, mut counted) = (1, 0);
    for row in values.into_iter().map(RawValue::get) {
        let begin = row.as_ptr() as usize - text.as_ptr() as usize;
        line += newlines(&text.as_bytes()[counted..begin]);
        counted = begin;
        rows.push((line, row));
    }
    Ok(rows)
}

fn line_of(bytes: &[u8], at: usize) -> usize {
    1 + newlines(&bytes[..at])
}

fn newlines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|&&byte| byte == b'\n').count()
}

/// The message of an error without the position that serde_json adds: its line is that of the row, not of the file.
fn without_position(error: &serde_json::Error) -> String {
    let position = format!(" at line {} column {}", error.line(), error.column());
    let message = error.to_string();
    let message = message.strip_suffix(&position).unwrap_or(&message);
    match error.classify() {
        // Its value is none of ours, though it is JSON: a key that comes twice.
        Category::Data => message.to_string(),
        Category::Eof => format!("not JSON: {message}: expected one object a line, or one list of objects"),
        Category::Syntax | Category::Io => format!("not JSON: {message} (column {})", error.column()),
    }
}

/// What `prompt`, `chosen` or `rejected` hold.
#[derive(Debug, PartialEq)]
enum Turns {
    Text(String),
    Messages(Vec<Message>),
}

impl Turns {
    fn kind(&self) -> &'static str {
        match self {
            Turns::Text(_) => "text",
            Turns::Messages(_) => "messages",
        }
    }
}

fn pair(line: usize, row: Json, ignored_keys: &[String]) -> Result<Pair> {
    let Json::Object(row) = row else {
        bail!("expected an object, found {}", row.kind());
    };
    let (mut prompt, mut chosen, mut rejected) = (None, None, None);
    for (key, value) in row {
        match key.as_str() {
            // Tables that are written as JSON have a null where there is nothing.
            _ if value == Json::Null => (),
            "prompt" => prompt = Some(turns(value, &key)?),
            "chosen" => chosen = Some(turns(value, &key)?),
            "rejected" => rejected = Some(turns(value, &key)?),
            _ if ignored_keys.contains(&key) => (),
            _ => bail!(
                "key {key:?} is none of \"prompt\", \"chosen\", \"rejected\"; with --ignore-key {key} it is ignored"
            ),
        }
    }
    let missing = |key: &str| anyhow!("key {key:?} is missing");
    let chosen = chosen.ok_or_else(|| missing("chosen"))?;
    let rejected = rejected.ok_or_else(|| missing("rejected"))?;
    ensure!(chosen != rejected, "\"chosen\" and \"rejected\" are the same");

    use Turns::{Messages, Text};
    let (prompt, chosen, rejected) = match (prompt, chosen, rejected) {
        (Some(Text(prompt)), Text(chosen), Text(rejected)) => explicit_text(prompt, chosen, rejected),
        (None, Text(chosen), Text(rejected)) => implicit_text(chosen, rejected)?,
        (Some(Messages(prompt)), Messages(chosen), Messages(rejected)) => {
            explicit_messages(prompt, chosen, rejected)
        }
        (None, Messages(chosen), Messages(rejected)) => implicit_messages(chosen, rejected)?,
        (Some(Text(prompt)), Messages(chosen), Messages(rejected)) => {
            named_messages(&prompt, chosen, rejected)?
        }
        (prompt, chosen, rejected) => bail!(
            "\"prompt\" is {}, \"chosen\" {}, \"rejected\" {}: expected text in all, messages in all, or a text \
             with two lists of messages that begin with it",
            prompt.map_or("missing", |prompt| prompt.kind()),
            chosen.kind(),
            rejected.kind()
        ),
    };
    ensure!(!prompt.is_empty(), "\"prompt\" is empty");
    for (key, answer) in [("chosen", &chosen), ("rejected", &rejected)] {
        let speaks = |message: &Message| message.role == Role::Assistant && !message.content.is_empty();
        ensure!(
            answer.iter().any(speaks),
            "{key:?} is empty: after the prompt the assistant says nothing in it"
        );
        ensure!(
            answer[0].role == Role::Assistant,
            "{key:?} goes on after the prompt with a message that is not the assistant's"
        );
    }
    Ok(Pair { line, prompt, chosen, rejected })
}

/// Prompt, chosen and rejected.
type Split = (Vec<Message>, Vec<Message>, Vec<Message>);

fn explicit_text(prompt: String, mut chosen: String, mut rejected: String) -> Split {
    // An HH dialogue beside its own beginning: no answer begins with another dialogue.
    if prompt.ends_with(HH_ASSISTANT) && chosen.starts_with(&prompt) && rejected.starts_with(&prompt) {
        chosen.drain(..prompt.len());
        rejected.drain(..prompt.len());
    }
    let says = |role, content| vec![Message { role, content }];
    (says(Role::User, prompt), says(Role::Assistant, chosen), says(Role::Assistant, rejected))
}

fn implicit_text(chosen: String, rejected: String) -> Result<Split> {
    let common = chosen.chars().zip(rejected.chars()).take_while(|(w, l)| w == l);
    let common = &chosen[..common.map(|(c, _)| c.len_utf8()).sum()];
    let end = match common.rfind(HH_ASSISTANT) {
        Some(at) => at + HH_ASSISTANT.len(),
        // A space belongs to the word that it comes before.
        None => common.strip_suffix(' ').unwrap_or(common).len(),
    };
    ensure!(end > 0, "key \"prompt\" is missing, and \"chosen\" and \"rejected\" do not begin alike");
    let prompt = chosen[..end].to_string();
    Ok(explicit_text(prompt, chosen[end..].to_string(), rejected[end..].to_string()))
}

fn explicit_messages(prompt: Vec<Message>, mut chosen: Vec<Message>, mut rejected: Vec<Message>) -> Split {
    if chosen.starts_with(&prompt) && rejected.starts_with(&prompt) {
        chosen.drain(..prompt.len());
        rejected.drain(..prompt.len());
    }
    (prompt, chosen, rejected)
}

fn implicit_messages(mut chosen: Vec<Message>, mut rejected: Vec<Message>) -> Result<Split> {
    let common = chosen.iter().zip(&rejected).take_while(|(w, l)| w == l).count();
    ensure!(
        common > 0,
        "key \"prompt\" is missing, and \"chosen\" and \"rejected\" do not begin with the same message"
    );
    rejected.drain(..common);
    Ok((chosen.drain(..common).collect(), chosen, rejected))
}

/// [`implicit_messages`] beside the text of one of them.
fn named_messages(text: &str, chosen: Vec<Message>, rejected: Vec<Message>) -> Result<Split> {
    let split = implicit_messages(chosen, rejected)?;
    ensure!(
        split.0.iter().any(|message| message.role == Role::User && message.content == text),
        "\"prompt\" is not the text of a user's message that both \"chosen\" and \"rejected\" begin with"
    );
    Ok(split)
}

fn turns(value: Json, key: &str) -> Result<Turns> {
    match value {
        Json::String(text) => Ok(Turns::Text(text)),
        Json::List(list) => {
            let messages = (1..)
                .zip(list)
                .map(|(number, value)| message(value).with_context(|| format!("{key:?}, message {number}")));
            Ok(Turns::Messages(messages.collect::<Result<_>>()?))
        }
        other => bail!("{key:?}: expected a string or a list of messages, found {}", other.kind()),
    }
}

fn message(value: Json) -> Result<Message> {
    let Json::Object(object) = value else {
        bail!("expected an object with \"role\" and \"content\", found {}", value.kind());
    };
    let (mut role, mut content) = (None, None);
    for (key, value) in object {
        match (key.as_str(), value) {
            (_, Json::Null) => (),
            ("role", Json::String(text)) => role = Some(text),
            ("content", Json::String(text)) => content = Some(text),
            ("role" | "content", other) => bail!("{key:?}: expected a string, found {}", other.kind()),
            _ => bail!("key {key:?} is neither \"role\" nor \"content\": there is no place for it here"),
        }
    }
    let missing = |key: &str| anyhow!("expected an object with \"role\" and \"content\", found no {key:?}");
    let role = match role.ok_or_else(|| missing("role"))?.as_str() {
        "system" => Role::System,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        other => bail!("role {other:?} is none of \"system\", \"user\", \"assistant\""),
    };
    Ok(Message { role, content: content.ok_or_else(|| missing("content"))? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(role: Role, content: &str) -> Vec<Message> {
        vec![Message { role, content: content.to_string() }]
    }

    fn parse(text: &str) -> Result<Vec<Pair>> {
        parse_pairs(text.as_bytes(), "pairs.jsonl", &[])
    }

    /// The pair of a file with one row, which may be spread over lines.
    fn parse_row(row: &str) -> Result<Pair> {
        Ok(parse(&row.replace('\n', " "))?.remove(0))
    }

    fn refusal(text: &str) -> String {
        format!("{:#}", parse(text).unwrap_err())
    }

    /// "Hi?", answered with "Yes." or "No.", in the first row of a file.
    fn hi() -> Pair {
        Pair {
            line: 1,
            prompt: says(Role::User, "Hi?"),
            chosen: says(Role::Assistant, "Yes."),
            rejected: says(Role::Assistant, "No."),
        }
    }

    mod formats_of_hugging_face {
        use super::*;

        #[test]
        fn explicit_and_implicit_prompts_say_the_same() {
            let rows = [
                r#"{"prompt": "Hi?", "chosen": "Yes.", "rejected": "No."}"#,
                r#"{"chosen": "Hi?Yes.", "rejected": "Hi?No."}"#,
                r#"{"prompt": [{"role": "user", "content": "Hi?"}],
                    "chosen": [{"role": "assistant", "content": "Yes."}],
                    "rejected": [{"role": "assistant", "content": "No."}]}"#,
                r#"{"chosen": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Yes."}],
                    "rejected": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "No."}]}"#,
            ];
            for row in rows {
                assert_eq!(parse_row(row).unwrap(), hi(), "{row}");
            }
        }

        #[test]
        fn a_prompt_that_the_answers_repeat_counts_once() {
            let turns = |answer: &str| {
                format!(
                    r#"[{{"role": "user", "content": "Hi?"}}, {{"role": "assistant", "content": "{answer}"}}]"#
                )
            };
            for prompt in [r#""Hi?""#, r#"[{"role": "user", "content": "Hi?"}]"#] {
                let row = format!(
                    r#"{{"prompt": {prompt}, "chosen": {}, "rejected": {}}}"#,
                    turns("Yes."),
                    turns("No.")
                );
                assert_eq!(parse_row(&row).unwrap(), hi(), "{row}");
            }
            // With a system message before and an earlier answer after the text that the prompt names.
            let long = |answer: &str| {
                format!(
                    r#"[{{"role": "system", "content": "s"}}, {{"role": "user", "content": "Hi?"}},
                        {{"role": "assistant", "content": "a"}}, {{"role": "user", "content": "b"}},
                        {{"role": "assistant", "content": "{answer}"}}]"#
                )
            };
            let row =
                format!(r#"{{"prompt": "Hi?", "chosen": {}, "rejected": {}}}"#, long("Yes."), long("No."));
            let pair = parse_row(&row).unwrap();
            let roles: Vec<Role> = pair.prompt.iter().map(|message| message.role).collect();
            assert_eq!(roles, [Role::System, Role::User, Role::Assistant, Role::User]);
            assert_eq!((pair.chosen, pair.rejected), (hi().chosen, hi().rejected));
        }

        #[test]
        fn the_prompt_of_an_hh_dialogue_ends_with_the_assistants_last_turn_in_common() {
            let dialogue = "\\n\\nHuman: Hi?\\n\\nAssistant: A.\\n\\nHuman: And?\\n\\nAssistant:";
            let expected = Pair {
                line: 1,
                prompt: says(Role::User, &dialogue.replace("\\n", "\n")),
                chosen: says(Role::Assistant, " It is so."),
                rejected: says(Role::Assistant, " It is not so."),
            };
            let (chosen, rejected) = (format!("{dialogue} It is so."), format!("{dialogue} It is not so."));
            let implicit = format!(r#"{{"chosen": "{chosen}", "rejected": "{rejected}"}}"#);
            let explicit =
                format!(r#"{{"prompt": "{dialogue}", "chosen": "{chosen}", "rejected": "{rejected}"}}"#);
            for row in [implicit, explicit] {
                assert_eq!(parse_row(&row).unwrap(), expected, "{row}");
            }
        }

        #[test]
        fn a_space_before_the_first_difference_is_the_answers() {
            let row = r#"{"chosen": "The sky is blue.", "rejected": "The sky is green."}"#;
            let Pair { prompt, chosen, rejected, .. } = parse_row(row).unwrap();
            assert_eq!(prompt[0].content, "The sky is");
            assert_eq!((&*chosen[0].content, &*rejected[0].content), (" blue.", " green."));
            // No character is cut in two: ä and ö begin with the same byte.
            let row = r#"{"chosen": "Gräser", "rejected": "Größe"}"#;
            assert_eq!(parse_row(row).unwrap().prompt[0].content, "Gr");
        }

        #[test]
        fn an_answer_is_text_as_it_stands() {
            let row = r#"{"prompt": "Hello", "chosen": "Hello! Yes?", "rejected": "Hello."}"#;
            let pair = parse_row(row).unwrap();
            assert_eq!((&*pair.chosen[0].content, &*pair.rejected[0].content), ("Hello! Yes?", "Hello."));
        }
    }

    mod what_would_be_dropped {
        use super::*;

        #[test]
        fn is_refused_by_line_and_key() {
            let good = r#"{"prompt": "p", "chosen": "a", "rejected": "b"}"#;
            let cases = [
                (
                    r#"{"prompt": "p", "chosen": "a", "rejected": "b", "tools": []}"#,
                    r#"key "tools" is none of "prompt", "chosen", "rejected"; with --ignore-key tools it is ignored"#,
                ),
                (
                    r#"{"prompt": [{"role": "user", "content": "p"}],
                        "chosen": [{"role": "assistant", "content": "a", "tool_calls": [{"id": 1}]}],
                        "rejected": [{"role": "assistant", "content": "b"}]}"#,
                    r#""chosen", message 1: key "tool_calls" is neither "role" nor "content""#,
                ),
                (
                    r#"{"chosen": "a", "prompt": "p", "chosen": "c", "rejected": "b"}"#,
                    r#"key "chosen" comes twice"#,
                ),
                (
                    r#"{"prompt": [{"role": "user", "content": "p", "role": "user"}], "chosen": "a", "rejected": "b"}"#,
                    r#"key "role" comes twice"#,
                ),
            ];
            for (bad, reason) in cases {
                let error = refusal(&format!("{good}\n{}\n", bad.replace('\n', " ")));
                assert!(error.starts_with("pairs.jsonl:2: "), "{error}");
                assert!(error.contains(reason), "{error:?} does not say {reason:?}");
            }
        }

        #[test]
        fn is_ignored_where_it_is_nothing_or_the_caller_says_so() {
            let nothing = r#"{"prompt": "Hi?", "chosen": "Yes.", "rejected": "No.", "tools": null}"#;
            assert_eq!(parse_row(nothing).unwrap(), hi());
            let absent = r#"{"prompt": null, "rejected": [{"role": "user", "content": "Hi?", "name": null},
                {"role": "assistant", "content": "No.", "tool_calls": null}],
                "chosen": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Yes."}]}"#;
            assert_eq!(parse_row(absent).unwrap(), hi());
            let scored = r#"{"prompt": "Hi?", "chosen": "Yes.", "rejected": "No.", "score_chosen": 8.5}"#;
            let ignored = ["score_chosen".to_string()];
            assert_eq!(parse_pairs(scored.as_bytes(), "pairs.jsonl", &ignored).unwrap(), [hi()]);
        }
    }

    #[test]
    fn rows_that_are_no_pairs_are_named() {
        let good = r#"{"prompt": "p", "chosen": "a", "rejected": "b"}"#;
        let cases = [
            ("[1]", "expected an object, found a list"),
            (r#"{"prompt": "p", "rejected": "b"}"#, r#"key "chosen" is missing"#),
            (r#"{"prompt": "p", "chosen": "a"}"#, r#"key "rejected" is missing"#),
            (r#"{"chosen": "a", "rejected": "b"}"#, r#"key "prompt" is missing"#),
            (
                r#"{"chosen": [{"role": "user", "content": "p"}], "rejected": [{"role": "user", "content": "q"}]}"#,
                r#"key "prompt" is missing"#,
            ),
            (
                r#"{"prompt": 7, "chosen": "a", "rejected": "b"}"#,
                r#""prompt": expected a string or a list of messages, found a number"#,
            ),
            (r#"{"prompt": "p", "chosen": "", "rejected": "b"}"#, r#""chosen" is empty"#),
            (r#"{"chosen": "p", "rejected": "p b"}"#, r#""chosen" is empty"#),
            (
                r#"{"prompt": "p", "chosen": "a", "rejected": []}"#,
                r#""prompt" is text, "chosen" text, "rejected" messages"#,
            ),
            (
                r#"{"prompt": [{"role": "user", "content": "p"}], "chosen": "a", "rejected": "b"}"#,
                r#""prompt" is messages, "chosen" text, "rejected" text"#,
            ),
            (
                r#"{"prompt": [], "chosen": [{"role": "assistant", "content": "a"}], "rejected": []}"#,
                r#""prompt" is empty"#,
            ),
            (
                r#"{"prompt": "q", "chosen": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "a"}],
                    "rejected": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "b"}]}"#,
                r#""prompt" is not the text of a user's message"#,
            ),
            // The prompt would be trained on twice in one of them.
            (
                r#"{"prompt": [{"role": "user", "content": "p"}],
                    "chosen": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "a"}],
                    "rejected": [{"role": "assistant", "content": "b"}]}"#,
                r#""chosen" goes on after the prompt with a message that is not the assistant's"#,
            ),
            (r#"{"prompt": "p", "chosen": "a", "rejected": "a"}"#, "are the same"),
            (
                r#"{"prompt": [{"role": "narrator", "content": "p"}], "chosen": "a", "rejected": "b"}"#,
                r#""prompt", message 1: role "narrator" is none of"#,
            ),
            (r#"{"prompt": [{"role": "user"}], "chosen": "a", "rejected": "b"}"#, r#"found no "content""#),
            (
                r#"{"prompt": [{"role": "user", "content": 1}], "chosen": "a", "rejected": "b"}"#,
                r#""prompt", message 1: "content": expected a string, found a number"#,
            ),
            (
                r#"{"prompt": ["p"], "chosen": "a", "rejected": "b"}"#,
                r#""prompt", message 1: expected an object with "role" and "content", found a string"#,
            ),
        ];
        for (bad, reason) in cases {
            // The blank second line counts, though it holds no pair.
            let error = refusal(&format!("{good}\n\n{}\n{good}\n", bad.replace('\n', " ")));
            assert!(error.starts_with("pairs.jsonl:3: "), "{error}");
            assert!(error.contains(reason), "{error:?} does not say {reason:?}");
        }
    }

    mod parser_messages {
        use super::*;

        const GOOD: &str = r#"{"prompt": "Hi?", "chosen": "Yes.", "rejected": "No."}"#;

        #[test]
        fn a_byte_order_mark_is_skipped() {
            assert_eq!(parse(&format!("\u{feff}{GOOD}\r\n")).unwrap(), [hi()]);
            assert_eq!(parse(&format!("\u{feff}[{GOOD}]")).unwrap(), [hi()]);
        }

        #[test]
        fn a_list_is_read_as_its_rows() {
            let pretty = GOOD.replace(", ", ",\n    ");
            let list = format!("\n[\n  {pretty},\n  {pretty}\n]\n");
            assert_eq!(parse(&list).unwrap(), [Pair { line: 3, ..hi() }, Pair { line: 6, ..hi() }]);
        }

        #[test]
        fn there_is_one_line_number_and_it_is_the_files() {
            let cases = [
                (format!("{GOOD}\n{GOOD}\n{{\n"), "pairs.jsonl:3: not JSON: EOF while parsing an object"),
                (format!("{GOOD}\n\n{GOOD} x\n"), "pairs.jsonl:3: not JSON: trailing characters (column 56)"),
                (format!("[\n{GOOD},\n{GOOD}\n{GOOD}]"), "pairs.jsonl:4: not JSON: expected `,` or `]`"),
                (format!("[{GOOD},\n\n[]]"), "pairs.jsonl:3: expected an object, found a list"),
                (format!("[\n{GOOD},\n{{\n\"a\": 1,\n\"a\": 2}}]"), "pairs.jsonl:5: key \"a\" comes twice"),
                (format!("[\n{GOOD},\n{{\n\"a\": 1}}]"), "pairs.jsonl:3: key \"a\" is none of"),
            ];
            for (text, message) in cases {
                let error = refusal(&text);
                assert!(error.starts_with(message), "{error:?} does not begin with {message:?}");
                assert!(!error.contains(" at line "), "{error}");
            }
        }

        #[test]
        fn bytes_that_are_no_text_are_named() {
            let error = parse_pairs(b"\n\xff\n", "pairs.jsonl", &[]).unwrap_err();
            assert_eq!(format!("{error:#}"), "pairs.jsonl:2: not UTF-8");
        }

        #[test]
        fn depth_has_an_end() {
            let error = refusal(&format!("{}{}", r#"{"a":"#.repeat(100_000), "}".repeat(100_000)));
            assert!(error.starts_with("pairs.jsonl:1: not JSON: recursion limit exceeded"), "{error}");
        }
    }

    #[test]
    fn a_file_without_pairs_is_an_error() {
        for text in ["", "\n \n", "[]"] {
            assert!(refusal(text).contains("no preference pairs"));
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = read_pairs(Path::new("no/such/file.jsonl"), &[]).unwrap_err();
        assert!(error.to_string().contains("no/such/file.jsonl"));
    }
}

//! The path after `$body.`: which forms a route may use, and how the field's JSON library walks them.
//! Must never accept what the path grammar refuses; what only the walk refuses makes the value undefined later.

/// One step of a walk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Field(Box<str>),
    Index(usize),
    /// `*` as a whole segment: every member.
    Every,
}

/// A checked path. `steps` is `None` when the grammar accepts the text but the walk never can (`a[0]b`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Path {
    pub steps: Option<Vec<Step>>,
}

/// Reads a path, or says what is wrong at which byte of it.
pub(super) fn parse(text: &str) -> Result<Path, (usize, String)> {
    let mut steps = Vec::new();
    let mut at = 0;
    loop {
        let length = text[at..].find(['.', '[', ']']).unwrap_or(text.len() - at);
        let name = &text[at..at + length];
        if name.is_empty() || name.bytes().all(|b| b.is_ascii_digit()) {
            return Err((at, segment_fault(text, at, name)));
        }
        steps.push(if name == "*" { Step::Every } else { Step::Field(name.into()) });
        at += length;
        if text[at..].starts_with('[') {
            at = index(text, at, &mut steps)?;
        }
        if !text[at..].starts_with('.') {
            break;
        }
        at += 1;
    }
    Ok(Path { steps: walkable(text, at, steps) })
}

/// `[INT]` at `at`; an index beyond 32 bits can be written but never walked.
fn index(text: &str, at: usize, steps: &mut Vec<Step>) -> Result<usize, (usize, String)> {
    let digits = text[at + 1..].bytes().take_while(u8::is_ascii_digit).count();
    let end = at + 1 + digits;
    if digits == 0 || !text[end..].starts_with(']') {
        return Err((at, "an index in a $body path is a plain number, as in $body.list[0]".to_owned()));
    }
    steps.push(Step::Index(text[at + 1..end].parse().unwrap_or(usize::MAX)));
    Ok(end + 1)
}

/// The grammar stops looking here, the JSON library does not: further indexes work, anything else fails at run time.
fn walkable(text: &str, mut at: usize, mut steps: Vec<Step>) -> Option<Vec<Step>> {
    while text[at..].starts_with('[') {
        at = index(text, at, &mut steps).ok()?;
        if let Some(rest) = text[at..].strip_prefix('.') {
            let more = parse(rest).ok()?.steps?;
            steps.extend(more);
            at = text.len();
        }
    }
    let too_far = steps.iter().any(|step| matches!(step, Step::Index(n) if *n > i32::MAX as usize));
    if at != text.len() || too_far {
        return None;
    }
    // `$.x` begins at the root, where every path begins anyway.
    if steps.first() == Some(&Step::Field("$".into())) && matches!(text.as_bytes().get(1), None | Some(b'.' | b'[')) {
        steps.remove(0);
    }
    Some(steps)
}

fn segment_fault(text: &str, at: usize, name: &str) -> String {
    if text.is_empty() {
        "the $body path is empty: name a property, as in $body.temperature".to_owned()
    } else if !name.is_empty() {
        format!("a $body path can't have the plain number '{name}' as a name: an element is written list[{name}]")
    } else if at == text.len() {
        "the $body path ends with '.': name a property after it, or remove it".to_owned()
    } else {
        "a name is missing in the $body path before this point".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        for good in ["a", "a.b", "a[0]", "a[0].b", "a[0][1]", "d-ash", "12ab", "a[00]", "t!", "*", "$x", "a[0][1].b"] {
            assert!(parse(good).is_ok_and(|p| p.steps.is_some()), "{good}");
        }
        for bad in
            ["", ".", "a.", ".a", "a..b", "[0]", "a[]", "a[-1]", "a[*]", "a['k']", "a[x]", "a[0", "1", "a.1", "a[0]."]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
        for stuck in ["a]", "a[0]b", "a[0][x]", "a[99999999999]", "a[0]]"] {
            assert_eq!(parse(stuck).unwrap().steps, None, "{stuck}");
        }
        assert_eq!(parse("$").unwrap().steps, Some(vec![]));
    }
}

//! Order of image versions: numbers as numbers, a pre-release before its release, as cargo has it.
//! Must never refuse a version: what is none is compared as text.

/// `a` comes after `b`. Versions that are no versions are compared as text.
pub fn is_newer(a: &str, b: &str) -> bool {
    key(a) > key(b)
}

/// Build data after `+` does not count.
fn key(version: &str) -> (Vec<Part>, bool, Vec<Part>) {
    let version = version.split('+').next().unwrap_or(version);
    let (core, pre) = version.split_once('-').map_or((version, None), |(core, pre)| (core, Some(pre)));
    (parts(core), pre.is_none(), pre.map_or(Vec::new(), parts))
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Number(u64),
    Text(String),
}

fn parts(text: &str) -> Vec<Part> {
    text.split('.').map(|p| p.parse().map_or_else(|_| Part::Text(p.to_owned()), Part::Number)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_have_an_order() {
        let ascending =
            ["0.9.0", "0.10.0", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0", "1.0.1"];
        for pair in ascending.windows(2) {
            assert!(is_newer(pair[1], pair[0]) && !is_newer(pair[0], pair[1]), "{pair:?}");
        }
        assert!(!is_newer("1.0.0+a", "1.0.0+b"));
    }
}

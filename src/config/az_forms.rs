//! The forms other than JSON in which `az` prints, so that an error can name them.

/// How to have `az` print JSON, and how to save it.
pub(super) const AS_JSON: &str = "save it with az acr show-endpoints --name NAME -o json > FILE, in \
     PowerShell with az acr show-endpoints --name NAME -o json | Out-File -Encoding utf8 FILE";

/// Says what some text is that is not JSON; `None` where no form is recognised.
pub(super) fn recognised(text: &str) -> Option<&'static str> {
    let lines = || text.lines().map(str::trim_end).filter(|line| !line.is_empty());
    let first = lines().next()?;
    if text.contains('\u{1b}') {
        return Some("it contains colour codes (az -o jsonc or yamlc)");
    }
    let is_message = |line: &str| {
        ["WARNING:", "ERROR:", "WARN:"].iter().any(|word| line.trim_start().starts_with(word))
    };
    if lines().any(is_message) {
        return Some("it contains az's warnings or errors (2>&1), which are not JSON");
    }
    if first.trim_start().starts_with(['{', '[']) {
        return None;
    }
    let is_rule =
        |line: &str| line.starts_with("--") && line.bytes().all(|one| b"- ".contains(&one));
    if lines().nth(1).is_some_and(is_rule) || first.starts_with("+-") {
        return Some("it is a table (az -o table)");
    }
    let is_key = |line: &str| {
        let key = line.trim_start_matches(['-', ' ']).split_once(':').map(|(key, _)| key);
        key.is_some_and(|key| ["dataEndpoints", "loginServer", "regionalEndpoints"].contains(&key))
    };
    if lines().any(is_key) {
        return Some("it is YAML (az -o yaml)");
    }
    first.contains('\t').then_some("it is tab-separated (az -o tsv)")
}

//! Formats rules as text: lines, wrapped comments, and chains.

/// Maximum width of a comment.
const WIDTH: usize = 98;

#[derive(Debug, Default)]
pub(super) struct Text {
    text: String,
    depth: usize,
}

impl Text {
    pub(super) fn line(&mut self, line: &str) {
        if !line.is_empty() {
            self.text.extend(std::iter::repeat_n('\t', self.depth));
        }
        self.text.push_str(line);
        self.text.push('\n');
    }

    pub(super) fn blank(&mut self) {
        self.line("");
    }

    /// Returns a wrapped comment.
    pub(super) fn comment(&mut self, comment: &str) {
        let width = WIDTH - 4 * self.depth;
        let mut line = String::from("#");
        for word in comment.split_whitespace() {
            if line.len() + 1 + word.len() > width && line.len() > 1 {
                self.line(&line);
                line.truncate(1);
            }
            line.push(' ');
            line.push_str(word);
        }
        self.line(&line);
    }

    /// Returns a rule that the operator can enable, as a comment.
    pub(super) fn example(&mut self, rule: &str) {
        self.line(&format!("#   {rule}"));
    }

    /// Returns the deletion of a table, which need not exist.
    pub(super) fn delete_table(&mut self, name: &str) {
        self.line(&format!("table inet {name}"));
        self.line(&format!("delete table inet {name}"));
    }

    /// Returns a table that replaces the one loaded before.
    pub(super) fn table(&mut self, name: &str, chains: impl FnOnce(&mut Self)) {
        self.delete_table(name);
        self.blank();
        self.block(&format!("table inet {name}"), chains);
    }

    /// Returns a chain with its hook.
    pub(super) fn chain(&mut self, name: &str, hook: &str, rules: impl FnOnce(&mut Self)) {
        self.block(&format!("chain {name}"), |text| {
            text.line(&format!("type {hook};"));
            rules(text);
        });
    }

    /// Returns a chain without a hook.
    pub(super) fn rules_of(&mut self, name: &str, rules: impl FnOnce(&mut Self)) {
        self.block(&format!("chain {name}"), rules);
    }

    fn block(&mut self, head: &str, body: impl FnOnce(&mut Self)) {
        self.line(&format!("{head} {{"));
        self.depth += 1;
        body(self);
        self.depth -= 1;
        self.line("}");
    }

    pub(super) fn into_string(self) -> String {
        self.text
    }
}

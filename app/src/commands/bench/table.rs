//! A table as markdown whose columns stand under one another, or as CSV.

use karat::text::one_line;

/// Where a column's cells stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// Named columns and rows of as many cells.
#[derive(Clone, Debug)]
pub(super) struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Without rows.
    pub(super) fn new(columns: &[(&str, Align)]) -> Self {
        let columns = columns.iter().map(|&(name, align)| (name.to_owned(), align)).collect();
        Self { columns, rows: Vec::new() }
    }

    /// Adds a row; cells that are missing are empty, and what is too much is left out.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let mut row: Vec<String> = cells.into_iter().map(|cell| one_line(&cell)).collect();
        row.resize(self.columns.len(), String::new());
        self.rows.push(row);
    }

    /// Markdown, padded.
    pub(super) fn markdown(&self) -> String {
        let escaped = |cell: &str| cell.replace('|', "\\|");
        let head: Vec<String> = self.columns.iter().map(|(name, _)| escaped(name)).collect();
        let rows: Vec<Vec<String>> =
            self.rows.iter().map(|row| row.iter().map(|cell| escaped(cell)).collect()).collect();
        let width = |i: usize| {
            let cells = std::iter::once(&head).chain(&rows).map(|row| row[i].chars().count());
            // Room for `---:`.
            cells.max().unwrap_or(0).max(4)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let mut text = self.line(&head, &widths);
        for ((_, align), width) in self.columns.iter().zip(&widths) {
            text.push_str(&match align {
                Align::Left => format!("| {:-<width$} ", ""),
                Align::Right => format!("| {:-<1$}: ", "", width - 1),
            });
        }
        text.push_str("|\n");
        for row in &rows {
            text.push_str(&self.line(row, &widths));
        }
        text
    }

    fn line(&self, cells: &[String], widths: &[usize]) -> String {
        let mut line = String::new();
        for ((cell, width), (_, align)) in cells.iter().zip(widths).zip(&self.columns) {
            line.push_str(&match align {
                Align::Left => format!("| {cell:<width$} "),
                Align::Right => format!("| {cell:>width$} "),
            });
        }
        line + "|\n"
    }

    /// CSV (RFC 4180, but for the line ends): a head, then the rows.
    pub(super) fn csv(&self) -> String {
        let quoted = |cell: &str| {
            if cell.contains(['"', ',']) {
                format!("\"{}\"", cell.replace('"', "\"\""))
            } else {
                cell.to_owned()
            }
        };
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            cells.map(quoted).collect::<Vec<String>>().join(",") + "\n"
        };
        let mut text = line(&mut self.columns.iter().map(|(name, _)| name.as_str()));
        for row in &self.rows {
            text.push_str(&line(&mut row.iter().map(String::as_str)));
        }
        text
    }
}

/// A rate or a time with about four digits: `1183`, `245.1`, `0.032`; nothing where there is none.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        _ if !value.is_finite() => String::new(),
        1000.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// A share as percent; nothing where there is none.
pub(super) fn percent(share: f64) -> String {
    if share.is_finite() { format!("{:.1} %", share * 100.0) } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::Align::{Left, Right};
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&[("model", Left), ("test", Left), ("tok/s", Right)]);
        table.row(["Zoë|7, \"x\"".to_owned(), "pp512".to_owned(), "1183".to_owned()]);
        table.row(["b\u{1b}[2J".to_owned(), "tg".to_owned()]);
        table
    }

    #[test]
    fn markdown_columns_stand_under_one_another() {
        let expected = "\
| model       | test  | tok/s |
| ----------- | ----- | ----: |
| Zoë\\|7, \"x\" | pp512 |  1183 |
| b\\u{1b}[2J  | tg    |       |
";
        assert_eq!(table().markdown(), expected);
        let widths: Vec<usize> =
            table().markdown().lines().map(|line| line.chars().count()).collect();
        assert!(widths.iter().all(|&width| width == widths[0]), "{widths:?}");
    }

    #[test]
    fn csv_quotes_what_must_be() {
        let expected = "model,test,tok/s\n\"Zoë|7, \"\"x\"\"\",pp512,1183\nb\\u{1b}[2J,tg,\n";
        assert_eq!(table().csv(), expected);
    }

    #[test]
    fn numbers_have_about_four_digits() {
        let shown: Vec<String> =
            [1183.4, 245.06, 2.504, 0.0321, f64::NAN].into_iter().map(number).collect();
        assert_eq!(shown, ["1183", "245.1", "2.50", "0.032", ""]);
        assert_eq!(percent(0.8567), "85.7 %");
        assert_eq!(percent(f64::INFINITY), "");
    }
}

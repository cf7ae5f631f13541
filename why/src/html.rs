//! The report as one self-contained page: a map of layers and ops, and behind each cell what was found.

use crate::{Error, ErrorKind, Report, Result};

const PAGE: &str = include_str!("report.html");
/// Where the report stands in the page.
const MARK: &str = "__REPORT__";
/// Where the command stands.
const AGAIN: &str = "__COMMAND__";

/// The page. `again` is the command that gives the report again.
///
/// # Errors
/// Where the report cannot be written as JSON, which no report of ours is.
pub fn html(report: &Report, again: &str) -> Result<String> {
    let json = |value: serde_json::Result<String>| {
        value.map(|json| safe(&json)).map_err(|e| Error::new(ErrorKind::Io, e.to_string()))
    };
    let page = PAGE.replace(AGAIN, &json(serde_json::to_string(again))?);
    let mut value =
        serde_json::to_value(report).map_err(|e| Error::new(ErrorKind::Io, e.to_string()))?;
    // What the page says of a fault is what the terminal says.
    value["summary"] = report.summary().into();
    let rows = value["rows"].as_array_mut().into_iter().flatten();
    for (row, of) in rows.zip(&report.rows) {
        if let Some(wrong) = &of.wrong {
            row["said"] = wrong.to_string().into();
        }
    }
    Ok(page.replace(MARK, &json(serde_json::to_string(&value))?))
}

/// JSON that cannot end its script, whatever a tensor is called.
fn safe(json: &str) -> String {
    json.replace('<', "\\u003c").replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]
mod tests {
    use super::*;
    use crate::{Row, Verdict};

    #[test]
    fn a_name_cannot_leave_its_script() {
        let row = Row {
            step: 0,
            node: 1,
            layer: Some(0),
            name: "</script><b>x".to_owned(),
            op: "ADD",
            verdict: Verdict::Right,
            elements: 1,
            checked: 1,
            wrong: None,
        };
        let report = Report { rows: vec![row], ..Report::default() };
        let page = html(&report, "karat why </script>").unwrap();
        assert_eq!(page.matches("</script>").count(), PAGE.matches("</script>").count());
        assert!(!page.contains(MARK) && !page.contains(AGAIN));
        assert!(
            page.contains("\\u003c/script>\\u003cb>x") && page.contains("\"verdict\":\"RIGHT\"")
        );
    }
}

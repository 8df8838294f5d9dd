//! Tables in the shape of Go's tab writer with the parameters of the `osm` command: cells at least 6 wide, 3 blanks apart.

use std::io::Write;

use tabwriter::TabWriter;

/// The header and the rows, one line each.
pub fn render<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    // Go counts the padding into the least width, this crate does not: 6 there is 3 + 3 here.
    let mut writer = TabWriter::new(Vec::new()).minwidth(3).padding(3);
    let mut line = |cells: &[&str]| writeln!(writer, "{}", cells.join("\t"));
    // A vector of bytes takes any write.
    let _ = line(&header);
    for row in rows {
        let _ = line(&row.each_ref().map(String::as_str));
    }
    let bytes = writer.into_inner().unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_are_as_wide_as_gos() {
        let rows = [["a", "b"], ["osm-system", "-"]].map(|row| row.map(str::to_owned));
        assert_eq!(
            super::render(["NS", "MESH"], &rows),
            "NS           MESH\na            b\nosm-system   -\n"
        );
        assert_eq!(super::render(["A", "B"], &[]), "A     B\n");
    }
}

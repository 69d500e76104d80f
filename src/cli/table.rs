//! Tables for people.

/// On which side of its column a cell stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
}

/// Columns with their names above, two blanks between them, each as wide as its widest cell.
pub(super) fn table(columns: &[(&str, Side)], rows: &[Vec<String>]) -> String {
    let width = |column: usize, name: &str| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).chain([name.chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<_> =
        columns.iter().enumerate().map(|(at, (name, _))| width(at, name)).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let cells = cells.zip(columns.iter().zip(&widths));
        let cells = cells.map(|(cell, ((_, side), width))| match side {
            Side::Left => format!("{cell:width$}"),
            Side::Right => format!("{cell:>width$}"),
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(&mut columns.iter().map(|(name, _)| *name))];
    lines.extend(rows.iter().map(|row| line(&mut row.iter().map(String::as_str))));
    lines.join("\n")
}

/// A text in one line of at most `most` characters; what a terminal would act on is taken out.
pub(super) fn cell(text: &str, most: usize) -> String {
    let plain: String =
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(most + 1).collect();
    if plain.chars().count() <= most {
        return plain;
    }
    let mut cut: String = plain.chars().take(most.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_is_as_wide_as_its_widest_cell() {
        let rows = [
            vec!["7".to_owned(), "rejected".to_owned(), "é".to_owned()],
            vec!["1234".to_owned(), "x".to_owned(), "last".to_owned()],
        ];
        let columns = [("SEQ", Side::Right), ("REASON", Side::Left), ("ANSWER", Side::Left)];
        insta::assert_snapshot!(table(&columns, &rows), @r"
         SEQ  REASON    ANSWER
           7  rejected  é
        1234  x         last
        ");
    }

    #[test]
    fn a_cell_is_one_line_and_moves_no_cursor() {
        assert_eq!(cell("a\nb\u{1b}[2Jc", 20), "a b [2Jc");
        assert_eq!(cell("abcdef", 6), "abcdef");
        assert_eq!(cell("abcdefg", 6), "abcde…");
    }
}

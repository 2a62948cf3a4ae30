//! Names that no reasonable person gives to a column.

use anyhow::Result;

use super::site::check;

const NAMES: [&str; 15] = [
    "a.b",
    "a.b.c",
    " ",
    "é ü",
    "select",
    "a",
    "x\ny",
    "tab\there",
    "back\\slash",
    "curly{}",
    "semi;colon,comma",
    "eq=ual",
    "per%cent",
    "k0",
    "s0",
];

#[tokio::test]
async fn columns_may_have_any_name() -> Result<()> {
    let long = "n".repeat(10_000);
    let mut names: Vec<&str> = NAMES.to_vec();
    names.extend(["quote\"d", long.as_str(), "ends in ."]);
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{}\"", name.replace('"', "\"\""))).collect();
    let columns: Vec<String> = quoted.iter().map(|name| format!("{name} TEXT")).collect();
    let definitions = format!(
        "CREATE SOURCE events ({}) WITH (partitions = 2, partition_by = 'a.b');
         CREATE MATERIALIZED VIEW v AS SELECT {}, count(*) AS n FROM events GROUP BY {}",
        columns.join(", "),
        quoted.join(", "),
        quoted.join(", "),
    );
    let event: serde_json::Map<String, serde_json::Value> =
        names.iter().enumerate().map(|(index, name)| ((*name).to_owned(), format!("v{index}").into())).collect();
    let lines = serde_json::Value::Object(event).to_string();
    let values: Vec<String> = (0..names.len()).map(|index| format!("v{index}")).collect();
    let query = format!("SELECT {}, n FROM v WHERE {} = 'v0'", quoted.join(", "), quoted[0]);
    let row = |n: usize| format!("{},{n}", values.join(","));
    // A line end in a name is one in the header line too.
    let query = format!(
        "SELECT * FROM ({query}) AS q ({}, n)",
        (0..names.len()).map(|i| format!("c{i}")).collect::<Vec<_>>().join(", ")
    );
    check(&definitions, "v", &lines, &query, &[&row(1)], &[&row(2)]).await
}

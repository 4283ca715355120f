//! The figures as a table beside their aims, and as lines of JSON.

/// A figure: what it is called, its unit, what issue and README promise, and what a kube-apiserver with etcd does on a
/// machine of this size.
pub struct Row {
    pub label: &'static str,
    pub unit: &'static str,
    pub aim: Option<Aim>,
    pub reference: Option<f64>,
}

#[derive(Clone, Copy)]
pub enum Aim {
    AtLeast(f64),
    Below(f64),
}

impl Aim {
    fn reached(self, value: f64) -> bool {
        match self {
            Self::AtLeast(aim) => value >= aim,
            Self::Below(aim) => value < aim,
        }
    }
}

impl std::fmt::Display for Aim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtLeast(aim) => write!(f, ">= {aim}"),
            Self::Below(aim) => write!(f, "< {aim}"),
        }
    }
}

/// One measured value.
pub struct Figure {
    pub row: &'static Row,
    pub value: f64,
}

/// The figures of one binary.
pub struct Column {
    pub name: String,
    pub figures: Vec<Figure>,
}

pub fn print(columns: &[Column], protocol: &str) {
    let Some(first) = columns.first() else { return };
    println!("{:<54}{:>12}{:>12}  {protocol}, 32 connections", "", "aim", "reference");
    for (n, column) in columns.iter().enumerate() {
        println!("{:<78}  {}: {}", "", n + 1, column.name);
    }
    for (i, figure) in first.figures.iter().enumerate() {
        let row = figure.row;
        let aim = row.aim.map(|aim| aim.to_string()).unwrap_or_default();
        let reference = row.reference.map(|value| value.to_string()).unwrap_or_default();
        print!("{:<54}{aim:>12}{reference:>12}", format!("{} [{}]", row.label, row.unit));
        for value in columns.iter().filter_map(|column| column.figures.get(i)).map(|figure| figure.value) {
            let verdict = row.aim.map_or("", |aim| if aim.reached(value) { " ok" } else { " --" });
            print!("{:>16}", format!("{}{verdict}", rounded(value)));
        }
        println!();
    }
    for column in columns {
        for Figure { row, value } in &column.figures {
            let line = serde_json::json!({
                "bench": "api", "binary": column.name, "protocol": protocol, "figure": row.label, "unit": row.unit,
                "value": value, "reference": row.reference, "reached": row.aim.map(|aim| aim.reached(*value)),
            });
            println!("{line}");
        }
    }
}

/// Three digits that count.
fn rounded(value: f64) -> String {
    let digits = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.digits$}")
}

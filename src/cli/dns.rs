//! `vipyard dns`: a look-up as a program in a Pod makes it, step by step, and which objects gave the answer. Exit code 0
//! when there is an answer, 1 when there is none.

use anyhow::anyhow;
use http::StatusCode;
use serde_json::Value;

use super::client::runtime;
use super::{DataDir, Failure, Output};

#[derive(clap::Args)]
pub(super) struct Args {
    /// The name to look up; an address to find its name
    name: String,
    /// The type of the records; give several with commas between. Without it, A and AAAA
    #[arg(long = "type", value_name = "TYPE", value_delimiter = ',')]
    types: Vec<String>,
    /// The Pod whose resolver is followed, or `NAMESPACE/` for any Pod there
    #[arg(long, value_name = "NAMESPACE/POD", default_value = "default/")]
    from: String,
    /// How the answer is printed
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    data_dir: DataDir,
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let client = args.data_dir.client()?;
    let query = form_urlencoded::Serializer::new(String::new())
        .append_pair("name", &args.name)
        .append_pair("type", &args.types.join(","))
        .append_pair("from", &args.from)
        .finish();
    let (code, lookup) = runtime()?.block_on(client.get(&format!("/vipyard/v1/dns?{query}")))?;
    if code != StatusCode::OK {
        let why = anyhow!("{}", lookup["message"].as_str().unwrap_or(code.as_str()));
        return Err(if code == StatusCode::BAD_REQUEST { Failure::Usage(why) } else { Failure::Failed(why) });
    }
    match args.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&lookup)?),
        Output::Text => print!("{}", text(&lookup)),
    }
    if lookup["found"] == true { Ok(()) } else { Err(anyhow!("{} has no answer", args.name).into()) }
}

fn text(lookup: &Value) -> String {
    let path = &lookup["path"];
    let mut text = format!("{} {}\n", words(&lookup["name"]), list(&lookup["types"], ", "));
    text += &format!("  nameserver {}\n", list(&path["nameservers"], " "));
    for (word, field) in [("search", "searches"), ("options", "options")] {
        if items(&path[field]).next().is_some() {
            text += &format!("  {word} {}\n", list(&path[field], " "));
        }
    }
    for step in items(&lookup["steps"]) {
        text += &format!("\n{}", words(&step["name"]));
        if let Some(search) = step["search"].as_str() {
            text += &format!("  (search {search})");
        }
        text.push('\n');
        for answer in items(&step["answers"]) {
            let by = match (answer["source"].as_str(), answer["upstream"].as_str()) {
                (Some("Cache"), Some(upstream)) => format!("said by {upstream} before"),
                (_, Some(upstream)) => format!("said by {upstream}"),
                (Some("Cluster"), _) => "the cluster's own".to_owned(),
                _ => "no answer".to_owned(),
            };
            text += &format!("  {:<5} {:<9} {by}\n", words(&answer["type"]), words(&answer["code"]));
            for record in items(&answer["records"]) {
                text += &format!("    {}\n", words(record));
            }
            for object in items(&answer["objects"]) {
                let field = |name: &str| words(&object[name]);
                text += &format!(
                    "    by {} {}/{} uid {} resourceVersion {}\n",
                    field("kind"),
                    field("namespace"),
                    field("name"),
                    field("uid"),
                    field("resourceVersion")
                );
            }
            if let Some(message) = answer["message"].as_str() {
                text += &format!("    {message}\n");
            }
        }
    }
    for note in items(&lookup["notes"]) {
        text += &format!("\nnote: {}\n", words(note));
    }
    text
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn words(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value, between: &str) -> String {
    items(value).map(words).collect::<Vec<_>>().join(between)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn steps_show_their_answers_and_the_objects_behind_them() {
        let lookup = json!({
            "name": "web", "types": ["A"], "found": true,
            "path": {"nameservers": ["10.96.0.10"], "searches": ["shop.svc.cluster.local"], "options": ["ndots:5"]},
            "steps": [
                {"name": "web.shop.svc.cluster.local.", "search": "shop.svc.cluster.local", "answers": [
                    {"type": "A", "code": "NXDOMAIN", "source": "Cluster", "records": [], "objects": [],
                     "message": "there is no Service web in Namespace shop"}]},
                {"name": "web.", "answers": [
                    {"type": "A", "code": "NOERROR", "source": "Upstream", "upstream": "192.0.2.53:53",
                     "records": ["web. 30 IN A 192.0.2.7"],
                     "objects": [{"kind": "Service", "namespace": "a", "name": "b", "uid": "u", "resourceVersion": "7"}]}]},
            ],
        });
        let expected = "\
web A
  nameserver 10.96.0.10
  search shop.svc.cluster.local
  options ndots:5

web.shop.svc.cluster.local.  (search shop.svc.cluster.local)
  A     NXDOMAIN  the cluster's own
    there is no Service web in Namespace shop

web.
  A     NOERROR   said by 192.0.2.53:53
    web. 30 IN A 192.0.2.7
    by Service a/b uid u resourceVersion 7
";
        assert_eq!(text(&lookup), expected);
    }
}

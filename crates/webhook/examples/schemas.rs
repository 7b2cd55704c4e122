//! Writes the JSON Schemas of all events into a directory: `cargo run -p magnetite-webhook --example schemas
//! -- docs/schemas`.

use std::{env, fs, io, path::PathBuf};

use webhook::{EventType, PING, ping_schema, schema};

fn main() -> io::Result<()> {
    let directory = env::args_os().nth(1).map(PathBuf::from);
    let directory = directory.ok_or_else(|| io::Error::other("usage: schemas DIRECTORY"))?;
    fs::create_dir_all(&directory)?;
    let events = EventType::ALL.map(|event_type| (event_type.as_str(), schema(event_type)));
    for (name, schema) in events.into_iter().chain([(PING, ping_schema())]) {
        let text = format!("{schema:#}\n");
        fs::write(directory.join(format!("{name}.json")), text)?;
    }
    Ok(())
}

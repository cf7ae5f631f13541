//! A chat in a few lines: `cargo run --release -p karat --example chat -- [MODEL]`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example is a program")]

use std::io::{BufRead, Write};

fn main() -> karat::Result<()> {
    let source = std::env::args().nth(1).unwrap_or_else(|| "smollm2:135m".to_owned());
    let model = karat::Model::builder(source)
        .on_event(|event| match event {
            karat::Event::Pulling(line) => eprintln!("pulling {line}"),
            karat::Event::Warning(line) => eprintln!("warning: {line}"),
            karat::Event::Note(line) => eprintln!("note: {line}"),
            karat::Event::Progress { .. }
            | karat::Event::Ended(_)
            | karat::Event::DoesNotFit { .. } => {}
        })
        .open()?;
    let mut chat = model.chat()?.with_system("Answer in one short sentence.");
    println!("{}; an empty line ends the chat", model.info().name);
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        if line.is_empty() {
            break;
        }
        for piece in chat.send(line)? {
            print!("{}", piece?);
            std::io::stdout().flush()?;
        }
        println!();
    }
    Ok(())
}

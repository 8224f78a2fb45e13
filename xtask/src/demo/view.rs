//! Where the demo shows things: lines that stay, and below them a picture that is drawn anew. Without a terminal, plain
//! lines. Must never fail for a reader that went away.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use super::picture::Picture;

/// How often the picture is drawn.
const DRAW: Duration = Duration::from_millis(120);
/// To the start of the line, N up, and clear everything below.
const CLEAR_BELOW: &str = "\x1b[J";

#[derive(Clone, Copy)]
pub enum Paint {
    Bold,
    Dim,
    Red,
    Green,
    Cyan,
    Off,
}

pub struct View {
    terminal: bool,
    colour: bool,
    begin: Instant,
    drawn: Option<Instant>,
    /// Lines of the picture on the screen.
    lines: usize,
    headings: usize,
}

impl View {
    pub fn new() -> View {
        let terminal = io::stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let colour = terminal && std::env::var_os("NO_COLOR").is_none();
        View { terminal, colour, begin: Instant::now(), drawn: None, lines: 0, headings: 0 }
    }

    /// What is about to happen.
    pub fn heading(&mut self, text: &str) {
        self.headings += 1;
        let title = self.bold(&format!("{}. {text}", self.headings));
        self.table(&format!("\n{title}\n"));
    }

    /// A line that stays.
    pub fn say(&mut self, text: &str) {
        self.stamped(&format!("     {text}"));
    }

    /// A claim that was put to the test.
    pub fn claim(&mut self, holds: bool, text: &str) {
        let (colour, mark) = if holds { (Paint::Green, "ok  ") } else { (Paint::Red, "FAIL") };
        self.stamped(&format!("{}{mark}{} {text}", self.paint(colour), self.paint(Paint::Off)));
    }

    fn stamped(&mut self, text: &str) {
        self.clear();
        let seconds = self.begin.elapsed().as_secs_f64();
        self.put(&format!("{}{seconds:5.1} s{}  {text}\n", self.paint(Paint::Dim), self.paint(Paint::Off)));
    }

    /// Lines without a time: titles and tables.
    pub fn table(&mut self, text: &str) {
        self.clear();
        self.put(text);
    }

    pub fn bold(&self, text: &str) -> String {
        format!("{}{text}{}", self.paint(Paint::Bold), self.paint(Paint::Off))
    }

    /// `pace` is for plain lines.
    pub fn draw(&mut self, picture: &Picture<'_>, pace: Duration) {
        let every = if self.terminal { DRAW } else { pace };
        if self.drawn.is_some_and(|at| at.elapsed() < every) {
            return;
        }
        self.drawn = Some(Instant::now());
        if self.terminal {
            let text = picture.lines(self);
            self.clear();
            self.lines = text.lines().count();
            self.put(&text);
        } else {
            self.stamped(&picture.line());
        }
    }

    /// Takes the picture away.
    pub fn clear(&mut self) {
        if self.lines > 0 {
            self.put(&format!("\r\x1b[{}A{CLEAR_BELOW}", self.lines));
            self.lines = 0;
        }
    }

    /// Nothing where there is no colour.
    pub fn paint(&self, paint: Paint) -> &'static str {
        match paint {
            _ if !self.colour => "",
            Paint::Bold => "\x1b[1m",
            Paint::Dim => "\x1b[2m",
            Paint::Red => "\x1b[31m",
            Paint::Green => "\x1b[32m",
            Paint::Cyan => "\x1b[36m",
            Paint::Off => "\x1b[0m",
        }
    }

    /// A reader that went away is no reason to stop before everything is put away.
    fn put(&mut self, text: &str) {
        let mut out = io::stdout().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

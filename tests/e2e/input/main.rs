//! What is put into a running device, and what is typed for it: good, bad and half. In each bad case there is one clear
//! line for the user, and the rest goes on working.

mod config;
mod folder;
mod images;
mod messages;
mod signed;
mod state;

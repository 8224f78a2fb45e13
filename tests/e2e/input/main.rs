//! What is put into a running device, and what is typed for it: good, bad and half. In each bad case there is one clear
//! line for the user, and the rest goes on working.

mod folder;
mod images;

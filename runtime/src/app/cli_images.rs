//! `skerry pull` and `skerry images` as typed, apart from `cli` only for its length.
//! Must never do what a verb says, only tell what was asked.

use std::path::PathBuf;

use argh::FromArgs;

use super::cli::verb;
use super::verbs::Target;

verb!(
    /// bring an image into the store of this device, to have it at hand without a network
    Pull, "pull", {
        /// oci://HOST/NAME:TAG, https://HOST/PATH#sha256=DIGEST or file:/PATH
        #[argh(positional)]
        pub reference: String,
    }
);
verb!(
    /// show the stored images, who uses them, and what is being pulled
    Images, "images", {}
);

//! `export_module!`: makes a cdylib an image. The only code of the SDK that is expanded into an author's crate.
//! Must never need more of that crate than the module's type and a settings.json beside its source.

use crate::{Module, description::Description, settings::check_defaults};

/// A module with its description. Implemented by [`export_module!`](crate::export_module), never by hand.
pub trait Exported: Module {
    /// The text of the ELF section `.skerry.module`.
    const DESCRIPTION: &'static str;
}

/// Makes this crate an image: exports the module, and embeds what it says about itself.
///
/// The file `settings.json` has to lie beside the source file that calls this. It declares inputs, outputs and
/// settings; the expansion contains a test that holds it equal to `Settings::default()`.
///
/// ```json
/// {
///   "description": "Lets through what is beyond a threshold",
///   "inputs": { "input1": "readings" },
///   "outputs": { "alerts": "readings above the threshold" },
///   "settings": { "threshold": { "default": 25.0, "unit": "°C", "text": "what is above this passes" } }
/// }
/// ```
///
/// The module's image is named after the cargo package, or by a `"name"` in that file. The crate must be a `cdylib`,
/// and must not be built with `panic = "abort"`: a panic would then take the whole instance down instead of refusing
/// one message.
#[macro_export]
macro_rules! export_module {
    ($module:ident) => {
        $crate::export_module!($module, "settings.json");
    };
    // For examples and tests, whose settings.json has another name.
    ($module:ident, $settings:literal) => {
        #[cfg(panic = "abort")]
        ::core::compile_error!(
            "a skerry module must be built with panic = \"unwind\": a panic then refuses one message instead of \
             ending the instance. Remove panic = \"abort\" from the profile."
        );

        impl $crate::export::Exported for $module {
            const DESCRIPTION: &'static str = ::core::concat!(
                "{\"format\":1,\"name\":\"",
                ::core::env!("CARGO_PKG_NAME"),
                "\",\"version\":\"",
                ::core::env!("CARGO_PKG_VERSION"),
                "\",\"sdk_version\":\"",
                $crate::__sdk_version!(),
                "\",\"abi_version\":\"",
                $crate::__abi_version!(),
                "\",\"declared\":",
                ::core::include_str!($settings),
                "}"
            );
        }

        #[allow(unsafe_code)]
        const _: () = {
            const TEXT: &str = <$module as $crate::export::Exported>::DESCRIPTION;

            // Exported, so that no linker takes the section for unused.
            #[used]
            #[unsafe(link_section = ".skerry.module")]
            #[unsafe(export_name = "skerry_module_description")]
            pub static DESCRIPTION: [u8; TEXT.len()] = $crate::export::bytes(TEXT);

            extern "C" fn constructor() -> $crate::export::RootModuleResult {
                $crate::export::root::<$module>()
            }

            // The name under which `abi_stable` looks for it.
            #[unsafe(export_name = "_1as_0lib_1header_0root_bmodule_bloader")]
            pub static HEADER: $crate::export::LibHeader = $crate::raw::header(constructor);
        };

        #[cfg(test)]
        mod skerry_settings_json {
            #[test]
            fn holds_the_defaults() {
                if let Err(error) = $crate::export::check::<super::$module>() {
                    panic!("{error}");
                }
            }
        }
    };
}

/// The version of this crate as a literal, for `concat!`.
#[doc(hidden)]
#[macro_export]
macro_rules! __sdk_version {
    () => {
        "1.0.0"
    };
}

/// [`raw::ABI_VERSION`](crate::raw::ABI_VERSION) as a literal.
#[doc(hidden)]
#[macro_export]
macro_rules! __abi_version {
    () => {
        "1.0.0"
    };
}

#[doc(hidden)]
pub use crate::entry::create;
#[doc(hidden)]
pub use abi_stable::library::{LibHeader, RootModuleResult};

/// The root module of an image.
#[doc(hidden)]
pub fn root<M: Exported>() -> RootModuleResult {
    crate::raw::erase(crate::raw::Root {
        sdk_version: abi_stable::std_types::RStr::from_str(crate::SDK_VERSION),
        create: crate::entry::create::<M>,
    })
}

#[doc(hidden)]
pub const fn bytes<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    let mut at = 0;
    while at < N {
        bytes[at] = text.as_bytes()[at];
        at += 1;
    }
    bytes
}

/// The generated test.
#[doc(hidden)]
pub fn check<M: Exported>() -> Result<(), String> {
    let description = Description::parse(M::DESCRIPTION)?;
    check_defaults::<M::Settings>(&description.declared)
}

#[cfg(test)]
mod tests {
    #[test]
    fn literals_are_what_they_stand_for() {
        assert_eq!(crate::__sdk_version!(), crate::SDK_VERSION);
        assert_eq!(crate::__abi_version!(), crate::raw::ABI_VERSION);
        assert_eq!(abi_stable::library::ROOT_MODULE_LOADER_NAME, "_1as_0lib_1header_0root_bmodule_bloader");
    }
}

"""zig, for programs that are to be small: what it links is linked once more by the same linker, in the same order, with what zig's own
command line does not take. Everything else is handed on. Must never change what is linked, only how it is laid out."""

import os
import subprocess
import sys
import tempfile

ZIG = [sys.executable, "-m", "ziglang"]
# Identical functions once; like beside like, so that it packs better (an eighteenth less of the .ipk).
LAYOUT = ["--icf=all", "--bp-compression-sort=both"]
# Of a program that aborts nobody unwinds anything; C and assembler bring tables all the same.
NO_TABLES = "SECTIONS { /DISCARD/ : { *(.eh_frame) *(.comment) } } INSERT BEFORE .text;\n"


# Who wants to print the calls above is told that there are none; what walks them would be a hundredth of the package.
NO_CALLS = """int _Unwind_Backtrace(void *each, void *argument) { return 5; }
unsigned long _Unwind_GetIP(void *context) { return 0; }
"""


def no_calls(folder, target):
    source, made = os.path.join(folder, "no-calls.c"), os.path.join(folder, "no-calls.o")
    with open(source, "w") as file:
        file.write(NO_CALLS)
    options = ["-Os", "-fno-asynchronous-unwind-tables", "-g0", "-c"]
    subprocess.run(ZIG + ["cc", "-target", target] + options + [source, "-o", made], check=True)
    return made


def links(arguments):
    return arguments[:1] == ["cc"] and "-o" in arguments and not {"-c", "-E", "-S", "-shared"} & set(arguments)


def main():
    # It is called as Python would be that has zig.
    arguments = sys.argv[3:] if sys.argv[1:3] == ["-m", "ziglang"] else sys.argv[1:]
    if not os.environ.get("SKERRY_LINK_SMALL") or not links(arguments):
        os.execv(ZIG[0], ZIG + arguments)
    with tempfile.TemporaryDirectory() as folder:
        # A folder of its own: what zig finds in its cache it does not link, and then does not tell how.
        environment = dict(os.environ, ZIG_VERBOSE_LINK="1", ZIG_LOCAL_CACHE_DIR=folder)
        run = subprocess.run(ZIG + arguments, env=environment, stderr=subprocess.PIPE, text=True)
        told = run.stderr.splitlines()
        if run.returncode != 0:
            sys.stderr.write("\n".join(line for line in told if not line.startswith(("ld.lld ", "ar "))) + "\n")
            return run.returncode
        output = arguments[arguments.index("-o") + 1]
        lines = [line.split() for line in told if line.startswith("ld.lld ") and f" -o {output} " in line]
        if not lines:
            sys.stderr.write("zig did not tell how it links; is there a blank in a path?\n")
            return 1
        script = os.path.join(folder, "no-tables.ld")
        with open(script, "w") as file:
            file.write(NO_TABLES)
        line = [word for word in lines[-1][1:] if word != "--eh-frame-hdr"]
        more = LAYOUT + [script]
        if "-static" in line:
            # It relocates itself, so no system's loader has to know the short form.
            more.append("--pack-dyn-relocs=relr")
        target = arguments[arguments.index("-target") + 1]
        # ARM asks by other names. What a module unwinds by, it brings itself.
        if not target.startswith(("arm", "thumb")):
            line = [word for word in line if not word.endswith("/libunwind.a")]
            more.append(no_calls(folder, target))
        return subprocess.run(ZIG + ["ld.lld"] + line + more).returncode


sys.exit(main())

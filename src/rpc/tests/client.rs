//! `scripts/rpc.py` and the plugin for SPDK's client: what they do besides calling one method.

use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::methods::rpc_py;
use crate::rpc::methods;
use crate::rpc::testing::Served;

/// Command lines that operators have in their scripts, and the parameters that they stand for.
const COMMAND_LINES: &[(&str, &str)] = &[
    (
        "bdev_null_create N 1 512 --dummy --read-zero -u 1 -p 4096",
        r#"{"block_size":512,"dummy":true,"name":"N","num_blocks":2048,
            "physical_block_size":4096,"read_zero":true,"uuid":"1"}"#,
    ),
    (
        "bdev_null_create -u 1 N 1.5 512",
        r#"{"block_size":512,"name":"N","num_blocks":3072,"uuid":"1"}"#,
    ),
    (
        "bdev_malloc_create -b M 1 512 --numa-id 0",
        r#"{"block_size":512,"name":"M","num_blocks":2048,"numa_id":0}"#,
    ),
    (
        "bdev_malloc_create 10 4096 --name M --uuid u --physical-block-size 4096",
        r#"{"block_size":4096,"name":"M","num_blocks":2560,"physical_block_size":4096,
            "uuid":"u"}"#,
    ),
    ("bdev_uring_create /a/b N", r#"{"filename":"/a/b","name":"N"}"#),
    (
        "bdev_uring_create /a N 512 -r --shared --serial S --direct off --write-cache off \
         --sq-poll --io-poll --rotational",
        r#"{"block_size":512,"direct":"off","filename":"/a","io_poll":true,"name":"N",
            "read_only":true,"rotational":true,"serial":"S","shared":true,"sq_poll":true,
            "write_cache":"off"}"#,
    ),
    (
        "bdev_uring_create /a N 0x200 --no-write-cache --no-rotational --read-only",
        r#"{"block_size":512,"filename":"/a","name":"N","read_only":true,"rotational":false,
            "write_cache":"off"}"#,
    ),
    (
        "bdev_sg_create -b S -u u -t 500 /dev/sg0",
        r#"{"filename":"/dev/sg0","name":"S","timeout_ms":500,"uuid":"u"}"#,
    ),
    ("bdev_sg_create /sg0 --timeout-ms 500", r#"{"filename":"/sg0","timeout_ms":500}"#),
    ("bdev_null_resize N 12", r#"{"name":"N","new_size":12}"#),
    ("bdev_get_bdevs -b N -t 100", r#"{"name":"N","timeout":100}"#),
    ("bdev_get_bdevs --name N --timeout-ms 100", r#"{"name":"N","timeout":100}"#),
    ("bdev_get_iostat -b a b -c", r#"{"names":["a","b"],"per_channel":true}"#),
    ("bdev_get_iostat --names a b --reset-mode all", r#"{"names":["a","b"],"reset_mode":"all"}"#),
    ("bdev_get_iostat --name a --per-channel", r#"{"names":["a"],"per_channel":true}"#),
    ("bdev_reset_iostat -b N -m maxmin", r#"{"mode":"maxmin","name":"N"}"#),
    (
        "bdev_set_qos_limit N --rw-ios-per-sec 5 --rw-mbytes-per-sec 0 --r-mbytes-per-sec 1 \
         --w-mbytes-per-sec 2",
        r#"{"name":"N","r_mbytes_per_sec":1,"rw_ios_per_sec":5,"rw_mbytes_per_sec":0,
            "w_mbytes_per_sec":2}"#,
    ),
    ("bdev_enable_histogram -d N", r#"{"enable":false,"name":"N"}"#),
    ("bdev_enable_histogram -e N -o read", r#"{"enable":true,"name":"N","opc":"read"}"#),
    (
        "bdev_enable_histogram --no-histogram N --opc write",
        r#"{"enable":false,"name":"N","opc":"write"}"#,
    ),
    ("bdev_passthru_create -b B -p P -u u", r#"{"base_bdev_name":"B","name":"P","uuid":"u"}"#),
    ("bdev_passthru_create --base-bdev-name B --name P", r#"{"base_bdev_name":"B","name":"P"}"#),
    (
        "bdev_delay_create -b B -d D -r 1 -t 2 -w 3 -n 4 -u U",
        r#"{"avg_read_latency":1,"avg_write_latency":3,"base_bdev_name":"B","name":"D",
            "p99_read_latency":2,"p99_write_latency":4,"uuid":"U"}"#,
    ),
    (
        "bdev_delay_create --base-bdev-name B --delay-bdev-name D --avg-read-latency 1 \
         --nine-nine-read-latency 2 --avg-write-latency 3 --nine-nine-write-latency 4",
        r#"{"avg_read_latency":1,"avg_write_latency":3,"base_bdev_name":"B","name":"D",
            "p99_read_latency":2,"p99_write_latency":4}"#,
    ),
    (
        "bdev_delay_update_latency D avg_read 1",
        r#"{"delay_bdev_name":"D","latency_type":"avg_read","latency_us":1}"#,
    ),
    ("bdev_error_create B --uuid u", r#"{"base_name":"B","uuid":"u"}"#),
    (
        "bdev_error_inject_error E read failure -n 1 -q 2 -o 3 -v 4",
        r#"{"corrupt_offset":3,"corrupt_value":4,"error_type":"failure","io_type":"read",
            "name":"E","num":1,"queue_depth":2}"#,
    ),
    (
        "bdev_error_inject_error E read failure --num 1 --queue-depth 2 --corrupt-offset 3 \
         --corrupt-value 4",
        r#"{"corrupt_offset":3,"corrupt_value":4,"error_type":"failure","io_type":"read",
            "name":"E","num":1,"queue_depth":2}"#,
    ),
    (
        "srpt_set_options --srp-max-req-size 1 --srp-max-rsp-size 2 --srp-max-rdma-size 3 \
         --srpt-srq-size 4 --srpt-sq-size 5 --srpt-service-guid 0 --rdma-cm-port 7 --use-srq \
         --no-channels-in-order",
        r#"{"channels_in_order":false,"rdma_cm_port":7,"srp_max_rdma_size":3,
            "srp_max_req_size":1,"srp_max_rsp_size":2,"srpt_service_guid":"0","srpt_sq_size":5,
            "srpt_srq_size":4,"use_srq":true}"#,
    ),
    ("srpt_create_target t -g 1 -p 2", r#"{"name":"t","relative_port":2,"service_guid":"1"}"#),
    (
        "srpt_create_target t --service-guid 1 --relative-port 2",
        r#"{"name":"t","relative_port":2,"service_guid":"1"}"#,
    ),
    (
        "srpt_add_listener t -t shm -a /x -s 1",
        r#"{"target":"t","traddr":"/x","trsvcid":"1","trtype":"shm"}"#,
    ),
    (
        "srpt_remove_listener t --trtype RDMA --traddr ib --trsvcid 1",
        r#"{"target":"t","traddr":"ib","trsvcid":"1","trtype":"RDMA"}"#,
    ),
    (
        "srpt_map_lun t b -l 1 -r --vendor v --product p --serial s",
        r#"{"bdev_name":"b","lun":1,"product":"p","read_only":true,"serial":"s","target":"t",
            "vendor":"v"}"#,
    ),
    (
        "srpt_map_lun t b --lun 1 --read-only",
        r#"{"bdev_name":"b","lun":1,"read_only":true,"target":"t"}"#,
    ),
    ("srpt_unmap_lun t 1", r#"{"lun":1,"target":"t"}"#),
    ("srpt_enable_dm_agent d 2", r#"{"device":"d","port":2}"#),
];

/// Runs rpc.py with text on its standard input.
fn rpc_py_reads(arguments: &[&str], input: &str) -> (i32, String, String) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/rpc.py");
    let mut command = Command::new("python3");
    command.arg(script).args(arguments).stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("python3");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(input.as_bytes()).expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("its end");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code().expect("no signal"), text(output.stdout), text(output.stderr))
}

/// Runs Python code that may import what is in `scripts`.
fn python(code: &str) -> String {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
    let mut command = Command::new("python3");
    command.args(["-B", "-c", code]).env("PYTHONPATH", scripts);
    let output = command.output().expect("python3");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn commands_of_a_file_go_over_one_connection_until_one_fails() {
    let served = Served::start();
    let path = served.path();
    let socket = path.to_str().expect("UTF-8");
    let commands = "# a target with a LUN\n\nbdev_null_create N#1 1 512\nsrpt_create_target 't 0'\n\
                    srpt_map_lun 't 0' N#1\nsrpt_map_lun 't 0' X\nlog_get_level\n";
    let (code, out, error) = rpc_py_reads(&["-s", socket], commands);
    assert_eq!((code, out.as_str()), (1, "N#1\n0\n"));
    let why = "rpc.py: standard input, line 6: srpt_map_lun: No such device: bdev X (code -19)\n";
    assert_eq!(error, why);

    let wrong = "srpt_unmap_lun 't 0' 0\nnope\nsrpt_unmap_lun\nload_config\n\"\nlog_get_level\n";
    let file = served.folder.path().join("commands");
    std::fs::write(&file, wrong).expect("a file");
    let file = file.to_str().expect("UTF-8");
    let (code, out, error) = rpc_py(&["-s", socket, "--keep-going", "--file", file]);
    assert_eq!((code, out.as_str()), (2, "\"NOTICE\"\n"));
    for line in ["line 2: this command", "line 3: this command", "line 4: load_config needs -j"] {
        assert!(error.contains(&format!("{file}, {line}")), "{error}");
    }
    assert!(error.contains(&format!("{file}, line 5: No closing quotation")), "{error}");
    let (code, _, error) = rpc_py(&["-s", socket, "-f", "/no/such/file"]);
    assert_eq!((code, error.contains("cannot read /no/such/file")), (1, true), "{error}");
}

#[test]
fn a_configuration_is_written_as_a_whole_file_and_the_one_before_is_kept() {
    let served = Served::start();
    let (socket, file) = (served.path(), served.folder.path().join("config.json"));
    let (socket, file) = (socket.to_str().expect("UTF-8"), file.to_str().expect("UTF-8"));
    let backup = format!("{file}.bak");
    let names = || -> Vec<String> {
        let entries = std::fs::read_dir(served.folder.path()).expect("a folder");
        let mut names: Vec<String> = entries
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
            .filter(|name| name.starts_with("config"))
            .collect();
        names.sort();
        names
    };
    let save = |socket: &str| rpc_py(&["-s", socket, "save_config", "-o", file]);
    let read = |file: &str| std::fs::read_to_string(file).expect("a file");
    assert_eq!(save(socket), (0, String::new(), String::new()));
    let first = read(file);
    assert_eq!(first, rpc_py(&["-s", socket, "save_config"]).1);
    assert_eq!(names(), ["config.json"]);
    let mode = std::fs::Permissions::from_mode(0o640);
    std::fs::set_permissions(file, mode.clone()).expect("the owner's");
    let metadata = || std::fs::metadata(file).expect("a file");
    let group = if rustix::process::geteuid().is_root() { 1 } else { metadata().gid() };
    std::os::unix::fs::chown(file, None, Some(group)).expect("a group of this process");

    served.bench.ok("srpt_create_target", r#"{"name":"t"}"#);
    assert_eq!(save(socket).0, 0);
    let second = read(file);
    assert!(second.contains("srpt_create_target"), "{second}");
    assert_eq!(read(&backup), first);
    let kept = metadata();
    assert_eq!((kept.permissions().mode() & 0o777, kept.gid()), (mode.mode(), group));
    assert_eq!(names(), ["config.json", "config.json.bak"]);

    // Where a redirection would have left an empty file.
    let (code, _, error) = save("/no/such/socket");
    assert_eq!((code, error.contains("cannot connect")), (1, true), "{error}");
    assert_eq!((read(file), read(&backup)), (second, first));
    let (code, _, error) = rpc_py(&["-s", socket, "save_config", "--output", "/no/such/f"]);
    assert_eq!(code, 1);
    assert_eq!(error, "rpc.py: save_config: /no/such/f: No such file or directory\n");
}

#[test]
fn a_word_that_is_nearly_right_gets_a_hint() {
    let hint = |arguments: &[&str]| {
        let (code, _, error) = rpc_py(arguments);
        assert_eq!(code, 2, "{error}");
        error
    };
    let error = hint(&["bdev_nul_delete", "N"]);
    assert!(error.contains("no method bdev_nul_delete; did you mean bdev_null_delete"), "{error}");
    let error = hint(&["srpt_map_lun", "t", "b", "--seriel", "x"]);
    assert!(
        error.contains("unrecognized arguments: --seriel x; did you mean --serial?"),
        "{error}"
    );
    assert!(!hint(&["zzz"]).contains("did you mean"));
}

#[test]
fn the_client_tells_its_version_and_completes_words() {
    let (code, version, _) = rpc_py(&["--version"]);
    assert_eq!((code, version), (0, format!("rpc.py {}\n", env!("CARGO_PKG_VERSION"))));
    let (code, script, _) = rpc_py(&["--completion", "bash"]);
    assert_eq!(code, 0);
    let complete = |words: &str| {
        let code = format!(
            "{script}\nCOMP_WORDS=(rpc.py {words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _srpt_rpc; echo \"${{COMPREPLY[*]}}\""
        );
        let output = Command::new("bash").args(["-c", &code]).output().expect("bash");
        String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
    };
    assert_eq!(complete("-s /x srpt_unmap"), "srpt_unmap_lun");
    assert_eq!(complete("srpt_map_lun t b --ser"), "--serial");
    assert_eq!(complete("bdev_uring_create --direct o"), "on off");
    assert_eq!(
        complete("''").split(' ').filter(|w| !w.starts_with('-')).count(),
        methods::names().count()
    );
}

#[test]
fn the_help_of_every_method_can_be_shown() {
    let help = python(
        "import argparse, rpc_commands\n\
         parsers = argparse.ArgumentParser(prog='p').add_subparsers()\n\
         made = rpc_commands.add_methods(parsers, rpc_commands.table()['methods'])\n\
         for parser in made.values(): print(parser.format_help())\n",
    );
    assert_eq!(help.matches("usage: p ").count(), methods::names().count());
    for part in ["0 to 16383", "512, 1024,", "default auto", "MiB per second", "-17 File exists"] {
        assert!(help.contains(part), "{part}");
    }
}

#[test]
fn spdk_s_client_gets_the_methods_that_it_has_not() {
    let out = python(
        "import argparse, srpt_spdk\n\
         class Client:\n    \
             def call(self, method, params):\n        \
                 print(method, params)\n        \
                 return 7\n\
         parser = argparse.ArgumentParser()\n\
         parser.add_argument('-p', dest='port', default=5260)\n\
         parsers = parser.add_subparsers(dest='called_rpc_name')\n\
         parsers.add_parser('bdev_null_create')\n\
         srpt_spdk.spdk_rpc_plugin_initialize(parsers)\n\
         for words in (['srpt_map_lun', 't', 'b'], ['srpt_enable_dm_agent', 'd', '2']):\n    \
             args = parser.parse_args(words)\n    \
             args.client = Client()\n    \
             args.func(args)\n    \
             print(args.port)\n",
    );
    let wanted = [
        "srpt_map_lun {'target': 't', 'bdev_name': 'b'}",
        "7",
        "5260",
        "srpt_enable_dm_agent {'device': 'd', 'port': 2}",
        "5260",
    ];
    assert_eq!(out.lines().collect::<Vec<_>>(), wanted);
}

#[test]
fn command_lines_that_are_in_use_go_on_to_mean_what_they_mean() {
    let lines: Vec<&str> = COMMAND_LINES.iter().map(|(line, _)| *line).collect();
    let out = python(&format!(
        "import argparse, json, rpc_commands\n\
         parser = argparse.ArgumentParser(prog='p')\n\
         rpc_commands.add_methods(parser.add_subparsers(), rpc_commands.table()['methods'])\n\
         for line in {lines:?}:\n    \
             args = parser.parse_args(line.split())\n    \
             print(json.dumps(args.params(args)))\n"
    ));
    assert_eq!(out.lines().count(), COMMAND_LINES.len());
    for ((line, wanted), params) in COMMAND_LINES.iter().zip(out.lines()) {
        let json = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
        assert_eq!(json(params), json(wanted), "{line}");
    }
}

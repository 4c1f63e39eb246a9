//! The report and decode agree, for every operation code.

use super::super::fixtures::{cdb, lu};
use super::super::{Answer, Work, decode};
use super::*;

fn ask(options: u8, opcode: u8, action: u16, lu: &LuView<'_>) -> Result<Vec<u8>, Sense> {
    let [high, low] = action.to_be_bytes();
    let bytes = cdb(&[0xa3, 0x0c, options, opcode, high, low, 0, 1, 0, 0]);
    let decoded = decode(&bytes, lu)?;
    assert_eq!(decoded.bytes, 0x10000);
    let Work::Answer(answer @ Answer::Opcodes(_)) = decoded.work else { panic!("{decoded:?}") };
    let mut out = vec![0; 4096];
    let length = answer.fill(lu, &mut out);
    out.truncate(length);
    Ok(out)
}

/// A CDB that decode accepts in every field: a small read, an empty question.
fn harmless(opcode: u8, action: u8) -> [u8; 16] {
    let mut bytes = cdb(&[opcode, action]);
    match opcode {
        0x41 => bytes[8] = 1,
        0x93 => bytes[13] = 1,
        0x1a | 0x5a => bytes[2] = 0x3f,
        0x08 | 0x0a => bytes[4] = 1,
        _ => {}
    }
    bytes
}

#[test]
fn the_report_and_decode_agree_on_all_opcodes() {
    let mut thick = lu();
    thick.geometry.unmap = false;
    for view in [lu(), thick] {
        for opcode in 0..=255u8 {
            for action in 0..32u8 {
                let report = ask(3, opcode, u16::from(action), &view).unwrap();
                let supported = report[1] & 0x07 == 3;
                let has_actions = matches!(opcode, 0x9e | 0xa3);
                if action != 0 && !has_actions {
                    assert!(!supported);
                    continue;
                }
                let served = decode(&harmless(opcode, action), &view);
                assert_eq!(served.is_ok(), supported, "{opcode:02x}/{action:02x}: {served:?}");
                if !supported && !has_actions {
                    assert_eq!(served, Err(Sense::INVALID_OPCODE));
                }
            }
        }
    }
}

#[test]
fn bits_outside_the_usage_map_are_refused_and_bits_inside_are_not_blamed() {
    for command in &COMMANDS {
        let action = command.service_action.unwrap_or(0);
        for at in 1..command.cdb_bytes {
            for bit in 0..8 {
                let mut bytes = harmless(command.opcode(), action);
                let (mask, used) = (1 << bit, command.usage[at] & (1 << bit) != 0);
                if bytes[at] & mask != 0 || (command.service_action.is_some() && at == 1) {
                    continue;
                }
                bytes[at] |= mask;
                let refused = command.check_reserved(&bytes);
                let group = matches!(
                    (command.opcode(), at),
                    (0x28 | 0x2a | 0x2f | 0x35 | 0x41 | 0x42, 6)
                        | (0x88 | 0x89 | 0x8a | 0x8f | 0x91 | 0x93, 14)
                        | (0xa8 | 0xaa | 0xaf, 10)
                ) && bit < 6;
                let expected = if used || group {
                    Ok(())
                } else {
                    Err(Sense::invalid_field_in_cdb(at as u16))
                };
                assert_eq!(refused, expected, "{:02x} byte {at} bit {bit}", command.opcode());
                if !used && !group {
                    assert_eq!(decode(&bytes, &lu()).unwrap_err(), expected.unwrap_err());
                }
            }
        }
    }
}

#[test]
fn all_commands() {
    for (options, step) in [(0x00, 8), (0x80, 20)] {
        let report = ask(options, 0, 0, &lu()).unwrap();
        let length = u32::from_be_bytes(report[..4].try_into().unwrap()) as usize;
        assert_eq!(length, report.len() - 4);
        assert_eq!(length, step * COMMANDS.len());
        for (descriptor, command) in report[4..].chunks(step).zip(&COMMANDS) {
            let servactv = u8::from(command.service_action.is_some());
            let action = command.service_action.unwrap_or(0);
            let ctdp = if options == 0 { 0 } else { 2 };
            let bytes = command.cdb_bytes as u8;
            let expected = [command.opcode(), 0, 0, action, 0, servactv | ctdp, 0, bytes];
            assert_eq!(descriptor[..8], expected);
            assert!(options == 0 || descriptor[8..] == [0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        }
    }
    let mut thick = lu();
    thick.geometry.unmap = false;
    assert_eq!(ask(0, 0, 0, &thick).unwrap().len(), 4 + 8 * (COMMANDS.len() - 1));
}

#[test]
fn one_command() {
    let read_10 = [0, 3, 0, 10, 0x28, 0x18, 255, 255, 255, 255, 0, 255, 255, 0];
    assert_eq!(ask(1, 0x28, 0, &lu()).unwrap(), read_10);
    assert_eq!(ask(3, 0x28, 0, &lu()).unwrap(), read_10);
    let timed = ask(0x81, 0x28, 0, &lu()).unwrap();
    assert_eq!(timed[..2], [0, 0x83]);
    assert_eq!(timed[14..], [0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let capacity = ask(2, 0x9e, 0x10, &lu()).unwrap();
    assert_eq!(capacity[..6], [0, 3, 0, 16, 0x9e, 0x10]);
    assert_eq!(ask(1, 0xff, 0, &lu()).unwrap(), [0, 1, 0, 0]);
    assert_eq!(ask(0x81, 0xff, 0, &lu()).unwrap(), [0, 1, 0, 0]);
    assert_eq!(ask(2, 0x9e, 0x11, &lu()).unwrap(), [0, 1, 0, 0]);
    let refused = Err(Sense::invalid_field_in_cdb(2));
    assert_eq!(ask(1, 0x9e, 0x10, &lu()), refused);
    assert_eq!(ask(2, 0x28, 0, &lu()), refused);
    for options in 4..8 {
        assert_eq!(ask(options, 0x28, 0, &lu()), refused);
    }
}

#[test]
fn rows_are_in_order_and_fit_one_answer() {
    let key = |command: &Command| (command.opcode(), command.service_action);
    assert!(COMMANDS.windows(2).all(|pair| key(&pair[0]) < key(&pair[1])));
    assert!(4 + 20 * COMMANDS.len() <= super::super::ANSWER_BYTES_MAX);
}

/// The name of a command as the standards write it, out of the name of its row: `Read10` is
/// "READ (10)".
fn name(command: &Command) -> String {
    let named = match command.kind {
        Kind::ReportOpcodes => "ReportSupportedOperationCodes".to_owned(),
        kind @ (Kind::Reserve | Kind::Release) => format!("{kind:?}{}", command.cdb_bytes),
        kind => format!("{kind:?}"),
    };
    let mut words = String::new();
    for (at, letter) in named.char_indices() {
        if letter.is_ascii_digit() && !words.ends_with(|last: char| last.is_ascii_digit()) {
            words.push_str(" (");
        } else if letter.is_uppercase() && at > 0 {
            words.push(' ');
        }
        words.push(letter.to_ascii_uppercase());
    }
    let has_number = words.ends_with(|last: char| last.is_ascii_digit());
    if has_number { words + ")" } else { words }
}

#[test]
fn the_manual_lists_the_commands_of_the_table() {
    let mut table = "| Code | Command | CDB |\n|---|---|---|\n".to_owned();
    for command in &COMMANDS {
        let action = command.service_action.map(|action| format!("/{action:02X}h"));
        let (opcode, action) = (command.opcode(), action.unwrap_or_default());
        let (name, bytes) = (name(command), command.cdb_bytes);
        table += &format!("| {opcode:02X}h{action} | {name} | {bytes} bytes |\n");
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/scsi.md");
    let page = std::fs::read_to_string(path).expect("the page");
    let (before, rest) = page.split_once("<!-- commands:begin -->\n").expect("where it begins");
    let (found, after) = rest.split_once("<!-- commands:end -->").expect("where it ends");
    if std::env::var_os("SRPT_KEEP").is_some() {
        let begin = "<!-- commands:begin -->\n";
        let page = format!("{before}{begin}{table}<!-- commands:end -->{after}");
        std::fs::write(path, page).expect("the page can be written");
    } else {
        assert_eq!(found, table, "SRPT_KEEP=1 cargo test -p srpt_tgt --lib opcodes writes it");
    }
}

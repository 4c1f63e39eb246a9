use super::*;

/// Bytes of the mapping that are in memory now, by the kernel's count of the process.
fn pages_are_in_place(memory: &Memory) -> bool {
    let start = memory.at(0).as_ptr() as usize;
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
    let mut lines = smaps.lines().skip_while(|line| !line.starts_with(&format!("{start:x}-")));
    let rss = lines.find_map(|line| line.strip_prefix("Rss:")).unwrap();
    let kib: usize = rss.trim().strip_suffix("kB").unwrap().trim().parse().unwrap();
    kib * 1024 >= memory.len()
}

#[test]
fn ordinary_pages_are_in_place_and_shared_with_their_descriptor() {
    let (memory, report) = Memory::new(300_000, PageWish::Ordinary).unwrap();
    let page = PageKind::Ordinary.bytes();
    assert_eq!(memory.len(), 300_000usize.next_multiple_of(page));
    assert_eq!((report.kind, report.bytes), (PageKind::Ordinary, memory.len()));
    assert!(report.refused.is_empty());
    assert!(pages_are_in_place(&memory));

    let last = memory.len() - 1;
    // SAFETY: nobody else has this mapping.
    unsafe {
        assert_eq!(memory.at(last).read(), 0);
        memory.at(last).write(0x5a);
    }
    let mut byte = [0];
    assert_eq!(rustix::io::pread(memory.fd().unwrap(), &mut byte, last as u64), Ok(1));
    assert_eq!(byte, [0x5a]);
}

#[test]
fn the_descriptor_cannot_change_its_size() {
    let (memory, _) = Memory::new(4096, PageWish::Ordinary).unwrap();
    let fd = memory.fd().unwrap();
    for len in [0, 1 << 20] {
        assert_eq!(rustix::fs::ftruncate(fd, len), Err(Errno::PERM));
    }
}

#[test]
fn memory_without_hugepages_falls_back_and_says_why() {
    let bytes = 6 << 20;
    for (wish, kinds) in [
        (PageWish::Huge2M, &[PageKind::Huge2M][..]),
        (PageWish::Huge1G, &[PageKind::Huge1G, PageKind::Huge2M]),
    ] {
        let (memory, report) = Memory::new(bytes, wish).unwrap();
        assert!(memory.len() >= bytes && memory.fd().is_some());
        assert!(pages_are_in_place(&memory) || report.kind != PageKind::Ordinary);
        let refused: Vec<_> = report.refused.iter().map(|refusal| refusal.kind).collect();
        match kinds.iter().position(|kind| *kind == report.kind) {
            Some(had) => assert_eq!(refused, kinds[..had]),
            None => assert_eq!((report.kind, refused.as_slice()), (PageKind::Ordinary, kinds)),
        }
        for refusal in &report.refused {
            assert_eq!(refusal.needed, bytes.div_ceil(refusal.kind.bytes()));
            assert!(report.to_string().contains(&refusal.to_string()), "{report}");
        }
        // SAFETY: nobody else has this mapping, and every page is in place.
        unsafe { std::ptr::write_bytes(memory.at(0).as_ptr(), 1, memory.len()) };
    }
}

#[test]
fn the_notice_names_the_remedy() {
    let report = PageReport {
        kind: PageKind::Ordinary,
        bytes: 64 << 20,
        refused: vec![
            PageRefusal {
                kind: PageKind::Huge1G,
                needed: 1,
                free_and_total: None,
                errno: Errno::NODEV,
            },
            PageRefusal {
                kind: PageKind::Huge2M,
                needed: 32,
                free_and_total: Some((2, 10)),
                errno: Errno::NOMEM,
            },
        ],
        locked: Err(LockRefusal { errno: Errno::PERM, limit_bytes: Some(8 << 20) }),
    };
    let notice = report.to_string();
    for part in [
        "65536 KiB of memory on ordinary pages",
        "no 1 GiB hugepages: the kernel does not offer them",
        "no 2 MiB hugepages: 32 needed, 2 free",
        "echo 40 > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
        "not locked, may be swapped out",
        "limit 8192 KiB, see ulimit -l",
    ] {
        assert!(notice.contains(part), "{part} in {notice}");
    }
    assert!(!notice.contains('\n') && report.is_less_than_wanted());
    let good = PageReport { refused: vec![], locked: Ok(()), ..report };
    assert_eq!(good.to_string(), "65536 KiB of memory on ordinary pages");
    assert!(!good.is_less_than_wanted());
}

#[test]
fn absurd_sizes_are_refused() {
    for wish in [PageWish::Ordinary, PageWish::Huge2M, PageWish::Huge1G] {
        assert!(matches!(Memory::new(usize::MAX, wish), Err(MemoryError::TooMuch { .. })));
        let error = Memory::new(1 << 46, wish).unwrap_err();
        assert!(error.to_string().contains("70368744177664 bytes of memory wanted"), "{error}");
        assert!(matches!(Memory::new(0, wish), Err(MemoryError::Map { .. })));
    }
}

#[test]
fn chunks_cover_the_memory() {
    let memory = Memory::ordinary((2 << 30) + 4096).unwrap();
    assert!(memory.fd().is_none());
    let chunks: Vec<_> = memory.chunks().collect();
    assert_eq!(chunks.iter().map(|(_, len)| *len).collect::<Vec<_>>(), [1 << 30, 1 << 30, 4096]);
    assert_eq!(chunks[2].0, memory.at(2 << 30));
    assert_eq!((memory.chunk_of((1 << 30) - 1), memory.chunk_of(2 << 30)), (0, 2));
}

//! The embedded images: that each kernel is there for each architecture, without spills, and that the right one is
//! picked for a device.
#![cfg(feature = "cuda")]

use dpo_kernels::Error;
use dpo_kernels::cuda::images::{IMAGES, Image, Kind, select};
use dpo_kernels::cuda::kernel::Kernel;

fn targets(unit: &str) -> Vec<String> {
    IMAGES.iter().filter(|image| image.unit == unit).map(Image::target).collect()
}

/// The numbers before `unit` in the compiler's report, summed over lines.
fn sum_of(report: &str, unit: &str) -> u64 {
    let number = |(at, _)| {
        let before: &str = &report[..at];
        before.trim_end().rsplit(|c: char| !c.is_ascii_digit()).next().unwrap().parse::<u64>().unwrap()
    };
    report.match_indices(unit).map(number).sum()
}

#[test]
fn every_kernel_is_embedded_for_every_architecture() {
    if std::env::var_os("DPO_KERNELS_ARCHS").is_some() {
        return; // another set was asked for
    }
    for kernel in Kernel::ALL {
        let (unit, name) = (kernel.unit(), kernel.to_string());
        assert_eq!(targets(unit), ["sm_80", "sm_90", "sm_100", "sm_120", "compute_80"], "{unit}");
        for image in IMAGES.iter().filter(|image| image.unit == unit) {
            let bytes = image.unpack().unwrap();
            assert!(
                bytes.windows(name.len()).any(|window| window == name.as_bytes()),
                "{kernel} is not in the image for {}",
                image.target()
            );
        }
    }
}

#[test]
fn images_are_what_they_say() {
    for image in IMAGES {
        let bytes = image.unpack().unwrap();
        match image.kind {
            Kind::Cubin => assert!(bytes.starts_with(b"\x7fELF"), "{}", image.target()),
            Kind::Ptx => {
                let text = std::str::from_utf8(&bytes).unwrap().trim_end_matches('\0');
                assert!(text.contains(&format!(".target sm_{}", image.capability)));
                assert_eq!(bytes.last(), Some(&0), "the driver needs a terminated string");
            }
        }
        assert_eq!(bytes.as_ptr() as usize % 64, 0, "the driver reads ELF files in place");
    }
}

#[test]
fn a_damaged_image_is_an_error() {
    let whole = IMAGES[0];
    let mut changed = whole.packed.to_vec();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    let damaged = [
        Image { packed: &[], ..whole },
        Image { packed: &whole.packed[..whole.packed.len() - 1], ..whole },
        Image { packed: changed.leak(), ..whole },
        Image { unpacked_len: whole.unpacked_len - 1, ..whole },
        Image { unpacked_len: whole.unpacked_len + 1, ..whole },
    ];
    for image in damaged {
        let error = image.unpack().unwrap_err();
        assert!(matches!(&error, Error::DamagedImage { unit, .. } if *unit == whole.unit), "{error}");
        assert!(error.to_string().contains(&whole.target()), "{error}");
    }
}

/// What every program that links the crate carries, where it embeds the default targets.
#[test]
fn the_images_are_small() {
    let embedded: usize = IMAGES.iter().map(|image| image.packed.len()).sum();
    assert!(embedded <= 6 << 20, "{embedded} bytes");
}

/// The rows' loops, in which tests/machine_code.rs finds no access to local memory, have the registers. What follows the rows,
/// once for a batch, may keep a few words there.
#[test]
fn hardly_anything_spills() {
    for image in IMAGES.iter().filter(|image| image.kind == Kind::Cubin) {
        let kernels = Kernel::ALL.iter().filter(|kernel| kernel.unit() == image.unit).count();
        let report = image.report;
        let target = image.target();
        assert_eq!(report.matches("bytes spill stores").count(), kernels, "{target}: {report}");
        for line in report.lines().filter(|line| line.contains(" bytes stack frame")) {
            assert!(sum_of(line, " bytes stack frame") <= 16, "{target}: {report}");
        }
    }
}

#[test]
fn the_best_image_for_a_device_is_picked() {
    let image = |kind, capability| Image {
        unit: "forward",
        kind,
        capability,
        report: "",
        unpacked_len: 0,
        packed: b"",
    };
    let images = [
        image(Kind::Cubin, 80),
        image(Kind::Cubin, 86),
        image(Kind::Cubin, 90),
        image(Kind::Cubin, 120),
        image(Kind::Ptx, 80),
    ];
    let pick = |device| select(&images, "forward", device).map(Image::target);
    assert_eq!(pick((8, 0)).unwrap(), "sm_80");
    assert_eq!(pick((8, 6)).unwrap(), "sm_86");
    assert_eq!(pick((8, 9)).unwrap(), "sm_86");
    assert_eq!(pick((9, 0)).unwrap(), "sm_90");
    assert_eq!(pick((10, 3)).unwrap(), "compute_80");
    assert_eq!(pick((12, 1)).unwrap(), "sm_120");
    let error = pick((7, 5)).unwrap_err();
    assert!(matches!(&error, Error::NoImage { device: (7, 5), embedded } if embedded.len() == 5));
    let message = error.to_string();
    assert!(
        message.contains("7.5") && message.contains("compute_80") && message.contains("DPO_KERNELS_ARCHS")
    );
    assert!(
        matches!(select(&images, "backward", (9, 0)), Err(Error::NoImage { embedded, .. }) if embedded.is_empty())
    );
}

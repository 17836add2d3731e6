//! Each family of instructions against a formula in Rust, on edge values and random ones.

use half::{bf16, f16};
use ptx_vm::{Launch, Module, Options, Placement, Vm};

/// Where the snippet leaves its result.
#[derive(Clone, Copy)]
enum Out {
    /// `%h`, 16 bits.
    H,
    /// `%r`, 32 bits.
    R,
    /// `%d`, 64 bits.
    D,
    /// `%p`
    P,
}

/// Runs a snippet on every triple of operands. It finds them in %ha %hb %hc, %ra %rb %rc and %da %db %dc.
fn run(snippet: &str, out: Out, operands: &[[u64; 3]], options: Options) -> Vec<u64> {
    let result = match out {
        Out::H => "cvt.u64.u16 %d, %h;",
        Out::R => "cvt.u64.u32 %d, %r;",
        Out::D => "",
        Out::P => "selp.b64 %d, 1, 0, %p;",
    };
    let ptx = format!(
        ".version 8.0\n.target sm_90\n.address_size 64\n\
        .visible .entry k(.param .u64 in, .param .u64 out) {{\n\
        .reg .pred %p, %q; .reg .b16 %h, %ha, %hb, %hc, %hd; .reg .b32 %r, %r2, %ra, %rb, %rc, %i<4>;\n\
        .reg .b64 %d, %d2, %da, %db, %dc, %x<4>;\n\
        ld.param.u64 %x0, [in]; ld.param.u64 %x1, [out];\n\
        mov.u32 %i0, %ctaid.x; mov.u32 %i1, %tid.x; mad.lo.u32 %i0, %i0, 32, %i1;\n\
        mad.wide.u32 %x0, %i0, 24, %x0; mad.wide.u32 %x1, %i0, 8, %x1;\n\
        ld.global.u64 %da, [%x0]; ld.global.u64 %db, [%x0+8]; ld.global.u64 %dc, [%x0+16];\n\
        cvt.u32.u64 %ra, %da; cvt.u32.u64 %rb, %db; cvt.u32.u64 %rc, %dc;\n\
        cvt.u16.u64 %ha, %da; cvt.u16.u64 %hb, %db; cvt.u16.u64 %hc, %dc;\n\
        {snippet}\n{result}\nst.global.u64 [%x1], %d;\nret;\n}}"
    );
    let module = Module::parse(&ptx).unwrap_or_else(|error| panic!("{snippet}: {error}"));
    let mut vm = Vm::new(options);
    let blocks = operands.len().div_ceil(32);
    let mut padded = operands.to_vec();
    padded.resize(blocks * 32, [1; 3]);
    let input: Vec<u8> = padded.iter().flatten().flat_map(|bits| bits.to_le_bytes()).collect();
    let input = vm.memory.alloc(&input, Placement::named("in").read_only());
    let output = vm.memory.alloc_uninit(blocks * 32 * 8, Placement::named("out"));
    let params: Vec<u8> = [input, output].into_iter().flat_map(u64::to_le_bytes).collect();
    vm.launch(&module, &Launch::new("k", blocks as u32, 32, &params))
        .unwrap_or_else(|fault| panic!("{snippet}: {fault}"));
    let bytes = vm.memory.read(output, operands.len() * 8).expect("written");
    bytes.chunks_exact(8).map(|b| u64::from_le_bytes(b.try_into().expect("eight bytes"))).collect()
}

/// Values where mistakes show, and random ones: as integers, singles, doubles and halves.
fn values() -> Vec<u64> {
    let mut values: Vec<u64> = vec![
        0,
        1,
        2,
        3,
        5,
        7,
        15,
        16,
        17,
        31,
        32,
        33,
        63,
        64,
        65,
        127,
        128,
        255,
        256,
        0x7fff,
        0x8000,
        0xffff,
        0x1_0000,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_ffff,
        0x1_0000_0000,
        u64::MAX,
        u64::MAX - 1,
        1 << 63,
        (1 << 63) - 1,
    ];
    let floats = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        1.5,
        2.5,
        -2.5,
        3.5,
        0.1,
        255.5,
        256.5,
        65504.0,
        65519.9,
        65520.0,
        1e-8,
        -1e-40,
        1e-45,
        3.4e38,
        1e10,
        -3e9,
        4.3e9,
        1e20,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
        1.00390625,
        1.01171875,
        1.00048828125,
        1.00146484375,
        5.9604645e-8,
        2.9802322e-8,
        1e-300,
        1e300,
    ];
    values.extend(floats.iter().map(|&x: &f64| u64::from((x as f32).to_bits())));
    values.extend(floats.iter().map(|x| x.to_bits()));
    values.extend(floats.iter().map(|&x| u64::from(f16::from_f64(x).to_bits()) * 0x1_0001));
    values.extend(floats.iter().map(|&x| u64::from(bf16::from_f64(x).to_bits()) * 0x1_0001));
    let mut state = 42u64;
    values.extend((0..60).map(|_| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        state ^ state >> 29
    }));
    values
}

/// Every pair of values, with a third that varies.
fn operands() -> Vec<[u64; 3]> {
    let values = values();
    let pairs = values.iter().enumerate().flat_map(|(i, &a)| {
        let values = &values;
        values.iter().enumerate().map(move |(j, &b)| [a, b, values[(i * 7 + j * 13) % values.len()]])
    });
    pairs.collect()
}

fn check(snippet: &str, out: Out, formula: impl Fn(u64, u64, u64) -> u64) {
    check_as(snippet, out, formula, |bits| bits);
}

/// Compares what `canonical` makes of both sides, for results of which not every bit is defined.
fn check_as(snippet: &str, out: Out, formula: impl Fn(u64, u64, u64) -> u64, canonical: impl Fn(u64) -> u64) {
    let operands = operands();
    let results = run(snippet, out, &operands, Options::default());
    for (&[a, b, c], result) in operands.iter().zip(results) {
        let expected = formula(a, b, c);
        assert!(
            canonical(result) == canonical(expected),
            "{snippet} of {a:#x}, {b:#x}, {c:#x}: {result:#x} instead of {expected:#x}"
        );
    }
}

fn f32_bits(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

fn check_f32(snippet: &str, formula: impl Fn(f32, f32, f32) -> f32) {
    let formula = |a, b, c| u64::from(formula(f32_bits(a), f32_bits(b), f32_bits(c)).to_bits());
    check_as(snippet, Out::R, formula, |bits| if f32_bits(bits).is_nan() { 0x7fff_ffff } else { bits });
}

fn check_f64(snippet: &str, formula: impl Fn(f64, f64, f64) -> f64) {
    let formula = |a, b, c| formula(f64::from_bits(a), f64::from_bits(b), f64::from_bits(c)).to_bits();
    check_as(
        snippet,
        Out::D,
        formula,
        |bits| if f64::from_bits(bits).is_nan() { u64::MAX >> 1 } else { bits },
    );
}

fn check_u32(snippet: &str, formula: impl Fn(u32, u32, u32) -> u32) {
    check(snippet, Out::R, |a, b, c| u64::from(formula(a as u32, b as u32, c as u32)));
}

fn check_i32(snippet: &str, formula: impl Fn(i32, i32, i32) -> i32) {
    check_u32(snippet, |a, b, c| formula(a as i32, b as i32, c as i32) as u32);
}

fn check_pred(snippet: &str, formula: impl Fn(u64, u64, u64) -> bool) {
    check(snippet, Out::P, |a, b, c| u64::from(formula(a, b, c)));
}

fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0f32.copysign(x) } else { x }
}

#[test]
fn integer_arithmetic() {
    check_u32("add.u32 %r, %ra, %rb;", |a, b, _| a.wrapping_add(b));
    check_u32("sub.s32 %r, %ra, %rb;", |a, b, _| a.wrapping_sub(b));
    check_i32("add.sat.s32 %r, %ra, %rb;", |a, b, _| a.saturating_add(b));
    check_u32("mul.lo.s32 %r, %ra, %rb;", |a, b, _| a.wrapping_mul(b));
    check_u32("mul.hi.u32 %r, %ra, %rb;", |a, b, _| ((u64::from(a) * u64::from(b)) >> 32) as u32);
    check_i32("mul.hi.s32 %r, %ra, %rb;", |a, b, _| ((i64::from(a) * i64::from(b)) >> 32) as i32);
    check("mul.hi.u64 %d, %da, %db;", Out::D, |a, b, _| ((u128::from(a) * u128::from(b)) >> 64) as u64);
    check("mul.hi.s64 %d, %da, %db;", Out::D, |a, b, _| {
        ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64
    });
    check("mul.wide.u32 %d, %ra, %rb;", Out::D, |a, b, _| u64::from(a as u32) * u64::from(b as u32));
    check("mul.wide.s32 %d, %ra, %rb;", Out::D, |a, b, _| (i64::from(a as i32) * i64::from(b as i32)) as u64);
    check_u32("mul.wide.u16 %r, %ha, %hb;", |a, b, _| u32::from(a as u16) * u32::from(b as u16));
    check_i32("mul.wide.s16 %r, %ha, %hb;", |a, b, _| i32::from(a as i16) * i32::from(b as i16));
    check_u32("mad.lo.u32 %r, %ra, %rb, %rc;", |a, b, c| a.wrapping_mul(b).wrapping_add(c));
    check_i32("mad.hi.s32 %r, %ra, %rb, %rc;", |a, b, c| {
        (((i64::from(a) * i64::from(b)) >> 32) as i32).wrapping_add(c)
    });
    check("mad.wide.s32 %d, %ra, %rb, %dc;", Out::D, |a, b, c| {
        (i64::from(a as i32) * i64::from(b as i32)).wrapping_add(c as i64) as u64
    });
    check_u32("mul24.lo.u32 %r, %ra, %rb;", |a, b, _| (a & 0xff_ffff).wrapping_mul(b & 0xff_ffff));
    check_u32("sad.u32 %r, %ra, %rb, %rc;", |a, b, c| a.abs_diff(b).wrapping_add(c));
    check_i32("sad.s32 %r, %ra, %rb, %rc;", |a, b, c| (a.abs_diff(b) as i32).wrapping_add(c));
    check_u32("div.u32 %r, %ra, %rb;", |a, b, _| a.checked_div(b).unwrap_or(u32::MAX));
    check_i32("rem.s32 %r, %ra, %rb;", |a, b, _| if b == 0 { a } else { a.wrapping_rem(b) });
    check("div.s64 %d, %da, %db;", Out::D, |a, b, _| {
        if b == 0 { u64::MAX } else { (a as i64).wrapping_div(b as i64) as u64 }
    });
    check_i32("min.s32 %r, %ra, %rb;", |a, b, _| a.min(b));
    check_u32("max.u32 %r, %ra, %rb;", |a, b, _| a.max(b));
    check_i32("neg.s32 %r, %ra;", |a, _, _| a.wrapping_neg());
    check_i32("abs.s32 %r, %ra;", |a, _, _| a.wrapping_abs());
    check("add.s16 %h, %ha, %hb;", Out::H, |a, b, _| u64::from((a as u16).wrapping_add(b as u16)));
    check("min.s16 %h, %ha, %hb;", Out::H, |a, b, _| u64::from((a as i16).min(b as i16) as u16));
    let wide = "add.cc.u32 %r, %ra, %rb; addc.u32 %r2, %rc, 0; mov.b64 %d, {%r, %r2};";
    check(wide, Out::D, |a, b, c| {
        (u64::from(a as u32) | u64::from(c as u32) << 32).wrapping_add(u64::from(b as u32))
    });
    let wide = "sub.cc.u32 %r, %ra, %rb; subc.u32 %r2, %rc, 0; mov.b64 %d, {%r, %r2};";
    check(wide, Out::D, |a, b, c| {
        (u64::from(a as u32) | u64::from(c as u32) << 32).wrapping_sub(u64::from(b as u32))
    });
}

#[test]
fn counts_of_bits() {
    check("clz.b64 %r, %da;", Out::R, |a, _, _| u64::from(a.leading_zeros()));
    check_u32("popc.b32 %r, %ra;", |a, _, _| a.count_ones());
    check("popc.b64 %r, %da;", Out::R, |a, _, _| u64::from(a.count_ones()));
    check_u32("clz.b32 %r, %ra;", |a, _, _| a.leading_zeros());
    check_u32("bfind.u32 %r, %ra;", |a, _, _| if a == 0 { u32::MAX } else { 31 - a.leading_zeros() });
    check_u32("bfind.s32 %r, %ra;", |a, _, _| {
        let a = if (a as i32) < 0 { !a } else { a };
        if a == 0 { u32::MAX } else { 31 - a.leading_zeros() }
    });
    check_u32("bfind.shiftamt.u32 %r, %ra;", |a, _, _| if a == 0 { u32::MAX } else { a.leading_zeros() });
    check_u32("brev.b32 %r, %ra;", |a, _, _| a.reverse_bits());
}

#[test]
fn logic() {
    check_u32("and.b32 %r, %ra, %rb;", |a, b, _| a & b);
    check_u32("or.b32 %r, %ra, %rb;", |a, b, _| a | b);
    check("xor.b64 %d, %da, %db;", Out::D, |a, b, _| a ^ b);
    check("not.b16 %h, %ha;", Out::H, |a, _, _| u64::from(!(a as u16)));
    check_u32("cnot.b32 %r, %ra;", |a, _, _| u32::from(a == 0));
    check_u32("lop3.b32 %r, %ra, %rb, %rc, 0xe8;", |a, b, c| a & b | b & c | a & c);
    check_u32("lop3.b32 %r, %ra, %rb, %rc, 0x96;", |a, b, c| a ^ b ^ c);
    check_u32("lop3.b32 %r, %ra, %rb, %rc, 0x1b;", |a, b, c| lut(a, b, c, 0x1b));
    let predicates = "setp.ne.u32 %p, %ra, 0; setp.ne.u32 %q, %rb, 0; not.pred %q, %q; xor.pred %p, %p, %q;";
    check_pred(predicates, |a, b, _| (a as u32 != 0) ^ (b as u32 == 0));
}

fn lut(a: u32, b: u32, c: u32, table: u8) -> u32 {
    (0..32).fold(0, |all, bit| {
        let index = (a >> bit & 1) << 2 | (b >> bit & 1) << 1 | (c >> bit & 1);
        all | u32::from(table >> index & 1) << bit
    })
}

#[test]
fn shifts() {
    check_u32("shl.b32 %r, %ra, %rb;", |a, n, _| if n > 31 { 0 } else { a << n });
    check_u32("shr.u32 %r, %ra, %rb;", |a, n, _| if n > 31 { 0 } else { a >> n });
    check_i32("shr.s32 %r, %ra, %rb;", |a, n, _| a >> (n as u32).min(31));
    check("shl.b64 %d, %da, %rb;", Out::D, |a, n, _| if n as u32 > 63 { 0 } else { a << (n as u32) });
    check("shr.s64 %d, %da, %rb;", Out::D, |a, n, _| ((a as i64) >> (n as u32).min(63)) as u64);
    check(
        "shr.u16 %h, %ha, %rb;",
        Out::H,
        |a, n, _| if n as u32 > 15 { 0 } else { u64::from(a as u16 >> (n as u32)) },
    );
    let both = |a: u32, b: u32| u64::from(b) << 32 | u64::from(a);
    check_u32("shf.l.wrap.b32 %r, %ra, %rb, %rc;", |a, b, n| (both(a, b) << (n % 32) >> 32) as u32);
    check_u32("shf.r.wrap.b32 %r, %ra, %rb, %rc;", |a, b, n| (both(a, b) >> (n % 32)) as u32);
    check_u32("shf.l.clamp.b32 %r, %ra, %rb, %rc;", |a, b, n| (both(a, b) << n.min(32) >> 32) as u32);
    check_u32("shf.r.clamp.b32 %r, %ra, %rb, %rc;", |a, b, n| (both(a, b) >> n.min(32)) as u32);
}

#[test]
fn fields() {
    let bit = |a: u64, i: u32| a >> i & 1;
    // The loops of the ISA's own definition.
    let bfe = move |a: u64, b: u64, c: u64, width: u32, signed: bool| {
        let (position, length) = (b as u32 & 0xff, c as u32 & 0xff);
        let top = (position + length).saturating_sub(1).min(width - 1);
        let sign = if !signed || length == 0 { 0 } else { bit(a, top) };
        (0..width).fold(0, |all, i| {
            let inside = i < length && position + i < width;
            all | if inside { bit(a, position + i) } else { sign } << i
        })
    };
    check("bfe.u32 %r, %ra, %rb, %rc;", Out::R, |a, b, c| bfe(a as u32 as u64, b, c, 32, false));
    check("bfe.s32 %r, %ra, %rb, %rc;", Out::R, |a, b, c| bfe(a as u32 as u64, b, c, 32, true));
    check("bfe.u64 %d, %da, %rb, %rc;", Out::D, |a, b, c| bfe(a, b, c, 64, false));
    check("bfe.s64 %d, %da, %rb, %rc;", Out::D, |a, b, c| bfe(a, b, c, 64, true));
    let bfi = move |a: u64, b: u64, position: u64, length: u64, width: u32| {
        let (position, length) = (position as u32 & 0xff, length as u32 & 0xff);
        (0..width).fold(0, |all, i| {
            let inside = i >= position && i - position < length;
            all | if inside { bit(a, i - position) } else { bit(b, i) } << i
        })
    };
    check("bfi.b32 %r, %ra, %rb, %rc, %rb;", Out::R, |a, b, c| bfi(a, b, c, b, 32));
    check("bfi.b64 %d, %da, %db, %rc, %rb;", Out::D, |a, b, c| bfi(a, b, c, b, 64));
    check("bfi.b32 %r, %ra, %rb, 8, 16;", Out::R, |a, b, _| bfi(a, b, 8, 16, 32));
}

#[test]
fn permutations() {
    let byte = |a: u32, b: u32, i: u32| if i < 4 { a >> (8 * i) & 0xff } else { b >> (8 * (i - 4)) & 0xff };
    let gather = |a: u32, b: u32, indices: [u32; 4]| {
        indices.iter().rev().fold(0, |all, &index| all << 8 | byte(a, b, index))
    };
    check_u32("prmt.b32 %r, %ra, %rb, %rc;", |a, b, s| {
        (0..4).fold(0, |all, i| {
            let nibble = s >> (4 * i) & 15;
            let picked = byte(a, b, nibble & 7);
            let replicated = if picked >> 7 != 0 { 0xff } else { 0 };
            all | if nibble >= 8 { replicated } else { picked } << (8 * i)
        })
    });
    // The tables of the ISA, a row for each value of the selector's low bits.
    let tables: [(&str, [[u32; 4]; 4]); 6] = [
        ("f4e", [[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5, 6]]),
        ("b4e", [[0, 7, 6, 5], [1, 0, 7, 6], [2, 1, 0, 7], [3, 2, 1, 0]]),
        ("rc8", [[0; 4], [1; 4], [2; 4], [3; 4]]),
        ("ecl", [[0, 1, 2, 3], [1, 1, 2, 3], [2, 2, 2, 3], [3, 3, 3, 3]]),
        ("ecr", [[0, 0, 0, 0], [0, 1, 1, 1], [0, 1, 2, 2], [0, 1, 2, 3]]),
        ("rc16", [[0, 1, 0, 1], [2, 3, 2, 3], [0, 1, 0, 1], [2, 3, 2, 3]]),
    ];
    for (mode, table) in tables {
        check_u32(&format!("prmt.b32.{mode} %r, %ra, %rb, %rc;"), |a, b, s| {
            gather(a, b, table[(s & 3) as usize])
        });
    }
}

#[test]
fn single_precision() {
    check_f32("add.f32 %r, %ra, %rb;", |a, b, _| a + b);
    check_f32("sub.rn.f32 %r, %ra, %rb;", |a, b, _| a - b);
    check_f32("mul.ftz.f32 %r, %ra, %rb;", |a, b, _| flush(flush(a) * flush(b)));
    check_f32("fma.rn.f32 %r, %ra, %rb, %rc;", f32::mul_add);
    check_f32("div.rn.f32 %r, %ra, %rb;", |a, b, _| a / b);
    check_f32("rcp.rn.f32 %r, %ra;", |a, _, _| 1.0 / a);
    check_f32("sqrt.rn.f32 %r, %ra;", |a, _, _| a.sqrt());
    check_f32("neg.f32 %r, %ra;", |a, _, _| -a);
    check_f32("abs.f32 %r, %ra;", |a, _, _| a.abs());
    check_f32("add.sat.f32 %r, %ra, %rb;", |a, b, _| {
        if (a + b).is_nan() { 0.0 } else { (a + b).clamp(0.0, 1.0) + 0.0 }
    });
    check_f32("copysign.f32 %r, %ra, %rb;", |a, b, _| b.copysign(a));
    // Each rounding against the exact sum in f64 where that is exact.
    for (mode, down) in [("rm", true), ("rp", false)] {
        check_f32(&format!("add.{mode}.f32 %r, %ra, %rb;"), |a, b, _| {
            directed(f64::from(a) + f64::from(b), a, b, down)
        });
    }
}

/// The single next to an exact sum on the wanted side; sums that f64 does not hold exactly are tiny beside a bound.
fn directed(sum: f64, a: f32, b: f32, down: bool) -> f32 {
    let near = sum as f32;
    if !near.is_finite() && !(sum.is_finite()) {
        return near;
    }
    if sum == 0.0 {
        let exact_zero = a == -b && a != 0.0;
        return match (exact_zero || (a.is_sign_negative() != b.is_sign_negative()), down) {
            (true, true) => -0.0,
            (true, false) => 0.0,
            (false, _) => near,
        };
    }
    // What f64 lost of the sum.
    let (big, small) =
        if a.abs() >= b.abs() { (f64::from(a), f64::from(b)) } else { (f64::from(b), f64::from(a)) };
    let lost = small - (sum - big);
    let above = match f64::from(near).partial_cmp(&sum) {
        Some(std::cmp::Ordering::Equal) => lost < 0.0,
        other => other == Some(std::cmp::Ordering::Greater),
    };
    let below = match f64::from(near).partial_cmp(&sum) {
        Some(std::cmp::Ordering::Equal) => lost > 0.0,
        other => other == Some(std::cmp::Ordering::Less),
    };
    match (down, above, below) {
        (true, true, _) => near.next_down(),
        (false, _, true) => near.next_up(),
        _ => near,
    }
}

#[test]
fn minimum_and_maximum() {
    let pick = |a: f32, b: f32, want_max: bool| {
        if a.is_nan() {
            b
        } else if b.is_nan() {
            a
        } else if a == b {
            if a.is_sign_negative() != want_max { a } else { b }
        } else if (a < b) != want_max {
            a
        } else {
            b
        }
    };
    check_f32("min.f32 %r, %ra, %rb;", |a, b, _| pick(a, b, false));
    check_f32("max.f32 %r, %ra, %rb;", |a, b, _| pick(a, b, true));
    check_f32("max.NaN.f32 %r, %ra, %rb;", |a, b, _| {
        if a.is_nan() || b.is_nan() { f32::NAN } else { pick(a, b, true) }
    });
    check_f32("min.ftz.NaN.f32 %r, %ra, %rb;", |a, b, _| {
        if a.is_nan() || b.is_nan() { f32::NAN } else { pick(flush(a), flush(b), false) }
    });
}

#[test]
fn double_precision() {
    check_f64("add.f64 %d, %da, %db;", |a, b, _| a + b);
    check_f64("mul.rn.f64 %d, %da, %db;", |a, b, _| a * b);
    check_f64("fma.rn.f64 %d, %da, %db, %dc;", f64::mul_add);
    check_f64("div.rn.f64 %d, %da, %db;", |a, b, _| a / b);
    check_f64("sqrt.rn.f64 %d, %da;", |a, _, _| a.sqrt());
    check_f64("neg.f64 %d, %da;", |a, _, _| -a);
}

#[test]
fn half_precision() {
    let h = |bits: u64| f16::from_bits(bits as u16);
    let canonical = |bits: u64| if f16::from_bits(bits as u16).is_nan() { 0x7fff } else { bits };
    let f16_result = |x: f64| u64::from(f16::from_f64(x).to_bits());
    check_as("add.f16 %h, %ha, %hb;", Out::H, |a, b, _| f16_result(h(a).to_f64() + h(b).to_f64()), canonical);
    check_as("mul.f16 %h, %ha, %hb;", Out::H, |a, b, _| f16_result(h(a).to_f64() * h(b).to_f64()), canonical);
    check_as("neg.f16 %h, %ha;", Out::H, |a, _, _| u64::from(a as u16 ^ 0x8000), canonical);
    let canonical = |bits: u64| if bf16::from_bits(bits as u16).is_nan() { 0x7fff } else { bits };
    check_as(
        "mul.bf16 %h, %ha, %hb;",
        Out::H,
        |a, b, _| {
            let product = bf16::from_bits(a as u16).to_f64() * bf16::from_bits(b as u16).to_f64();
            u64::from(bf16::from_f64(product).to_bits())
        },
        canonical,
    );
    let packed =
        "add.f16x2 %r, %ra, %rb; mov.b32 {%h, %hd}, %r; mov.b32 %r, {%hd, %h}; mov.b32 {%h, %hd}, %r;";
    check_as(
        packed,
        Out::H,
        |a, b, _| f16_result(h(a >> 16).to_f64() + h(b >> 16).to_f64()),
        |bits| if f16::from_bits(bits as u16).is_nan() { 0x7fff } else { bits },
    );
}

#[test]
fn conversions_between_floats() {
    let h = |bits: u64| f16::from_bits(bits as u16);
    check_as("cvt.f32.f16 %r, %ha;", Out::R, |a, _, _| u64::from(h(a).to_f32().to_bits()), nan32);
    let bf = |x: f32| if x.is_nan() { 0x7fff } else { u64::from(bf16::from_f32(x).to_bits()) };
    let hf = |x: f32| if x.is_nan() { 0x7fff } else { u64::from(f16::from_f32(x).to_bits()) };
    check("cvt.rn.f16.f32 %h, %ra;", Out::H, |a, _, _| hf(f32_bits(a)));
    check("cvt.rn.bf16.f32 %h, %ra;", Out::H, |a, _, _| bf(f32_bits(a)));
    check("cvt.rn.bf16x2.f32 %r, %ra, %rb;", Out::R, |a, b, _| bf(f32_bits(a)) << 16 | bf(f32_bits(b)));
    check("cvt.rn.f16x2.f32 %r, %ra, %rb;", Out::R, |a, b, _| hf(f32_bits(a)) << 16 | hf(f32_bits(b)));
    check("cvt.rz.bf16.f32 %h, %ra;", Out::H, |a, _, _| {
        if f32_bits(a).is_nan() { 0x7fff } else { a as u32 as u64 >> 16 }
    });
    check_as(
        "cvt.f64.f32 %d, %ra;",
        Out::D,
        |a, _, _| f64::from(f32_bits(a)).to_bits(),
        |bits| {
            if f64::from_bits(bits).is_nan() { u64::MAX } else { bits }
        },
    );
    check_as(
        "cvt.rn.f32.f64 %r, %da;",
        Out::R,
        |a, _, _| u64::from((f64::from_bits(a) as f32).to_bits()),
        nan32,
    );
    check_f32("cvt.rni.f32.f32 %r, %ra;", |a, _, _| a.round_ties_even());
    check_f32("cvt.rmi.f32.f32 %r, %ra;", |a, _, _| a.floor());
    check_f32("cvt.sat.f32.f32 %r, %ra;", |a, _, _| if a > 0.0 { a.min(1.0) } else { 0.0 });
}

fn nan32(bits: u64) -> u64 {
    if f32_bits(bits).is_nan() { 0x7fff_ffff } else { bits }
}

#[test]
fn conversions_to_and_from_integers() {
    // Rust's casts saturate and take NaN to 0, as the instructions do.
    check_i32("cvt.rzi.s32.f32 %r, %ra;", |a, _, _| f32::from_bits(a as u32) as i32);
    check_u32("cvt.rzi.u32.f32 %r, %ra;", |a, _, _| f32::from_bits(a) as u32);
    check_i32("cvt.rni.s32.f32 %r, %ra;", |a, _, _| f32::from_bits(a as u32).round_ties_even() as i32);
    check_i32("cvt.rpi.s32.f32 %r, %ra;", |a, _, _| f32::from_bits(a as u32).ceil() as i32);
    check("cvt.rmi.s64.f64 %d, %da;", Out::D, |a, _, _| f64::from_bits(a).floor() as i64 as u64);
    check("cvt.rzi.u64.f32 %d, %ra;", Out::D, |a, _, _| f32_bits(a) as u64);
    check_i32("cvt.rzi.s8.f32 %r, %ra;", |a, _, _| i32::from(f32::from_bits(a as u32) as i8));
    check("cvt.rn.f32.s32 %r, %ra;", Out::R, |a, _, _| u64::from((a as i32 as f32).to_bits()));
    check("cvt.rn.f32.u64 %r, %da;", Out::R, |a, _, _| u64::from((a as f32).to_bits()));
    check("cvt.rn.f32.s64 %r, %da;", Out::R, |a, _, _| u64::from((a as i64 as f32).to_bits()));
    check("cvt.rn.f64.u64 %d, %da;", Out::D, |a, _, _| (a as f64).to_bits());
    check("cvt.rz.f32.u32 %r, %ra;", Out::R, |a, _, _| {
        let near = a as u32 as f32;
        let toward = if near as f64 > (a as u32) as f64 { near.next_down() } else { near };
        u64::from(toward.to_bits())
    });
    check("cvt.s64.s32 %d, %ra;", Out::D, |a, _, _| a as i32 as i64 as u64);
    check("cvt.s64.s8 %d, %ra;", Out::D, |a, _, _| a as i8 as i64 as u64);
    check("cvt.u64.u16 %d, %ha;", Out::D, |a, _, _| u64::from(a as u16));
    check_i32("cvt.s32.s16 %r, %ha;", |a, _, _| i32::from(a as i16));
    check_u32("cvt.u32.u8 %r, %ra;", |a, _, _| u32::from(a as u8));
    check_i32("cvt.sat.s8.s32 %r, %ra;", |a, _, _| a.clamp(-128, 127));
    check_u32("cvt.sat.u8.s32 %r, %ra;", |a, _, _| (a as i32).clamp(0, 255) as u32);
    check("cvt.sat.u32.s64 %r, %da;", Out::R, |a, _, _| (a as i64).clamp(0, i64::from(u32::MAX)) as u64);
}

#[test]
fn comparisons() {
    check_pred("setp.lt.s32 %p, %ra, %rb;", |a, b, _| (a as i32) < b as i32);
    check_pred("setp.hi.u32 %p, %ra, %rb;", |a, b, _| a as u32 > b as u32);
    check_pred("setp.ge.u64 %p, %da, %db;", |a, b, _| a >= b);
    check_pred("setp.ne.s16 %p, %ha, %hb;", |a, b, _| a as u16 != b as u16);
    let f = f32_bits;
    check_pred("setp.lt.f32 %p, %ra, %rb;", |a, b, _| f(a) < f(b));
    check_pred("setp.ne.f32 %p, %ra, %rb;", |a, b, _| f(a) < f(b) || f(a) > f(b));
    check_pred("setp.neu.f32 %p, %ra, %rb;", |a, b, _| f(a) != f(b));
    check_pred("setp.geu.f32 %p, %ra, %rb;", |a, b, _| f(a) >= f(b) || f(a).is_nan() || f(b).is_nan());
    check_pred("setp.num.f32 %p, %ra, %rb;", |a, b, _| !f(a).is_nan() && !f(b).is_nan());
    check_pred("setp.nan.f64 %p, %da, %db;", |a, b, _| {
        f64::from_bits(a).is_nan() || f64::from_bits(b).is_nan()
    });
    check_pred("setp.eq.ftz.f32 %p, %ra, %rb;", |a, b, _| flush(f(a)) == flush(f(b)));
    check_pred("setp.gt.f16 %p, %ha, %hb;", |a, b, _| f16::from_bits(a as u16) > f16::from_bits(b as u16));
    let combined = "setp.ne.u32 %q, %rc, 0; setp.lt.and.u32 %p, %ra, %rb, !%q;";
    check_pred(combined, |a, b, c| (a as u32) < b as u32 && c as u32 == 0);
    let second = "setp.ne.u32 %q, %rc, 0; setp.lt.or.u32 %q|%p, %ra, %rb, %q;";
    check_pred(second, |a, b, c| a as u32 >= b as u32 || c as u32 != 0);
    check_u32("set.lt.u32.f32 %r, %ra, %rb;", |a, b, _| {
        if f32::from_bits(a) < f32::from_bits(b) { u32::MAX } else { 0 }
    });
    check_f32("set.gt.f32.s32 %r, %ra, %rb;", |a, b, _| {
        if a.to_bits() as i32 > b.to_bits() as i32 { 1.0 } else { 0.0 }
    });
    check_pred("testp.finite.f32 %p, %ra;", |a, _, _| f(a).is_finite());
    check_pred("testp.subnormal.f32 %p, %ra;", |a, _, _| f(a).is_subnormal());
    check_pred("testp.normal.f64 %p, %da;", |a, _, _| f64::from_bits(a).is_normal());
}

#[test]
fn selections_and_moves() {
    check_u32("setp.lt.u32 %p, %ra, %rb; selp.b32 %r, %ra, %rb, %p;", |a, b, _| a.min(b));
    check_u32("slct.b32.s32 %r, %ra, %rb, %rc;", |a, b, c| if c as i32 >= 0 { a } else { b });
    check_u32("slct.b32.f32 %r, %ra, %rb, %rc;", |a, b, c| if f32::from_bits(c) >= 0.0 { a } else { b });
    check("mov.b64 {%r, %r2}, %da; mov.b64 %d, {%r2, %r};", Out::D, |a, _, _| a.rotate_left(32));
    check("mov.b64 {%h, %ha, %hb, %hd}, %da; mov.b64 %d, {%hd, %hb, %ha, %h};", Out::D, |a, _, _| {
        (0..4).fold(0, |all, i| all << 16 | a >> (16 * i) & 0xffff)
    });
    check_u32("mov.f32 %r, 0f3F800000;", |_, _, _| 1f32.to_bits());
    check_u32("mov.u32 %r, -5;", |_, _, _| 5u32.wrapping_neg());
    let guarded = "mov.u32 %r, 1; setp.gt.u32 %p, %ra, %rb; @%p mov.u32 %r, 2; @!%p add.u32 %r, %r, 2;";
    check_u32(guarded, |a, b, _| if a > b { 2 } else { 3 });
}

#[test]
fn loops_with_divergent_exits() {
    // Collatz steps, at most 100: every lane leaves at another time, and all meet again at the shuffle.
    let collatz = "mov.u32 %r, 0; cvt.u32.u8 %ra, %ra;\n\
        LOOP: setp.le.u32 %p, %ra, 1; @%p bra DONE; setp.ge.u32 %p, %r, 100; @%p bra DONE;\n\
        add.u32 %r, %r, 1; and.b32 %r2, %ra, 1; setp.ne.u32 %q, %r2, 0; @%q bra ODD;\n\
        shr.u32 %ra, %ra, 1; bra LOOP;\n\
        ODD: mad.lo.u32 %ra, %ra, 3, 1; bra.uni LOOP;\n\
        DONE: shfl.sync.bfly.b32 %r2, %r, 0, 31, -1; mov.u32 %r, %r2;";
    check(collatz, Out::R, |a, _, _| {
        let (mut a, mut steps) = (u64::from(a as u8), 0);
        while a > 1 && steps < 100 {
            a = if a % 2 == 0 { a / 2 } else { 3 * a + 1 };
            steps += 1;
        }
        steps
    });
    let table = "and.b32 %ra, %ra, 3; T: .branchtargets A, B, C, B;\n\
        brx.idx %ra, T; A: mov.u32 %r, 10; bra E; B: mov.u32 %r, 20; bra E; C: mov.u32 %r, 30; E:";
    check(table, Out::R, |a, _, _| [10, 20, 30, 20][(a & 3) as usize]);
}

/// Runs a collective on one warp whose lane i holds the i-th value.
fn warp(snippet: &str, out: Out, values: impl Fn(u64) -> u64) -> Vec<u64> {
    let operands: Vec<[u64; 3]> = (0..32).map(|lane| [values(lane), lane, 0]).collect();
    run(snippet, out, &operands, Options::default())
}

#[test]
fn shuffles() {
    // The pseudocode of the ISA.
    let reference = |mode: &str, lane: i64, b: i64, c: i64| {
        let (bound, segment) = (c & 31, c >> 8 & 31);
        let (highest, lowest) = ((lane & segment) | (bound & !segment), lane & segment);
        let (j, valid) = match mode {
            "up" => (lane - b, lane - b >= highest),
            "down" => (lane + b, lane + b <= highest),
            "bfly" => (lane ^ b, lane ^ b <= highest),
            _ => {
                let j = lowest | (b & !segment);
                (j, j <= highest)
            }
        };
        if valid { (j, 1) } else { (lane, 0) }
    };
    for mode in ["up", "down", "bfly", "idx"] {
        for segment in [0, 0x10, 0x18, 0x1c] {
            let bound = if mode == "up" { 0 } else { 0x1f };
            let clamp = segment << 8 | bound;
            for distance in [0, 1, 2, 5, 8, 15, 16, 31] {
                let shuffle = format!("shfl.sync.{mode}.b32 %r|%p, %ra, {distance}, {clamp}, -1;");
                let results = warp(&shuffle, Out::R, |lane| lane * 100);
                let valid = warp(&shuffle, Out::P, |lane| lane * 100);
                for lane in 0..32 {
                    let (source, in_range) = reference(mode, lane, distance, clamp);
                    assert_eq!(results[lane as usize], source as u64 * 100, "{shuffle} in lane {lane}");
                    assert_eq!(valid[lane as usize], in_range, "{shuffle} in lane {lane}");
                }
            }
        }
    }
    // Two halves of a warp, each with a membermask of its own.
    let halves = "and.b32 %r2, %rb, 16; shl.b32 %r2, 0xffff, %r2; shfl.sync.idx.b32 %r, %ra, %rb, 31, %r2;";
    assert_eq!(warp(halves, Out::R, |lane| lane + 7), (7..39).collect::<Vec<u64>>());
}

#[test]
fn votes_matches_and_reductions() {
    let odd = "and.b32 %r2, %ra, 1; setp.ne.u32 %q, %r2, 0;";
    let all = |snippet: &str, out| warp(&format!("{odd} {snippet}"), out, |lane| lane);
    assert_eq!(all("vote.sync.ballot.b32 %r, %q, -1;", Out::R), [0xaaaa_aaaa; 32]);
    assert_eq!(all("vote.sync.any.pred %p, %q, -1;", Out::P), [1; 32]);
    assert_eq!(all("vote.sync.all.pred %p, !%q, -1;", Out::P), [0; 32]);
    assert_eq!(all("vote.sync.uni.pred %p, %q, -1;", Out::P), [0; 32]);
    let matched = all("match.any.sync.b32 %r, %r2, -1;", Out::R);
    assert_eq!(matched, [0x5555_5555, 0xaaaa_aaaa].repeat(16));
    assert_eq!(all("match.all.sync.b32 %r|%p, %r2, -1;", Out::P), [0; 32]);
    assert_eq!(all("redux.sync.add.s32 %r, %ra, -1;", Out::R), [496; 32]);
    assert_eq!(all("redux.sync.max.u32 %r, %ra, -1;", Out::R), [31; 32]);
    assert_eq!(all("redux.sync.min.s32 %r, %ra, -1;", Out::R), [0; 32]);
    let elected: Vec<u64> = (0..32).map(|lane| u64::from(lane == 0)).collect();
    assert_eq!(all("elect.sync %r|%p, -1;", Out::P), elected);
    assert_eq!(all("activemask.b32 %r;", Out::R), [0xffff_ffff; 32]);
    let ranks: Vec<u64> = (0..32).map(|lane| (1 << lane) - 1).collect();
    assert_eq!(all("mov.u32 %r, %lanemask_lt;", Out::R), ranks);
}

#[test]
fn barriers_that_reduce() {
    let odd = "and.b32 %r2, %ra, 1; setp.ne.u32 %q, %r2, 0;";
    let all = |snippet: &str, out| warp(&format!("{odd} {snippet}"), out, |lane| lane);
    assert_eq!(all("bar.red.popc.u32 %r, 0, %q;", Out::R), [16; 32]);
    assert_eq!(all("barrier.cta.red.or.aligned.pred %p, 1, %q;", Out::P), [1; 32]);
    assert_eq!(all("bar.red.and.pred %p, 0, 32, !%q;", Out::P), [0; 32]);
}

#[test]
fn approximations_stay_within_their_documented_error() {
    let inputs: Vec<[u64; 3]> =
        (0..2000).map(|i| [u64::from((i as f32 * 0.013 - 13.0).to_bits()), 0, 0]).collect();
    type Case = (&'static str, fn(f64) -> f64, i32);
    let cases: [Case; 5] = [
        ("ex2.approx.ftz.f32", f64::exp2, -22),
        ("rcp.approx.f32", f64::recip, -23),
        ("sqrt.approx.f32", f64::sqrt, -23),
        ("rsqrt.approx.f32", |x| 1.0 / x.sqrt(), -22),
        ("tanh.approx.f32", f64::tanh, -11),
    ];
    for (name, exact, bits) in cases {
        let snippet = format!("{name} %r, %ra;");
        let nominal = run(&snippet, Out::R, &inputs, Options::default());
        let mut moved = 0;
        for approx_seed in 1..4 {
            let options = || Options { approx_seed, ..Options::default() };
            let results = run(&snippet, Out::R, &inputs, options());
            assert_eq!(
                results,
                run(&snippet, Out::R, &inputs, options()),
                "{name} depends on its operand alone"
            );
            moved += results.iter().zip(&nominal).filter(|(a, b)| a != b).count();
            for ([bits_in, ..], result) in inputs.iter().zip(results) {
                let (expected, result) = (exact(f64::from(f32_bits(*bits_in))), f64::from(f32_bits(result)));
                // The bound, and the rounding to single precision.
                let bound = expected.abs() * (2f64.powi(bits) + 2f64.powi(-24));
                let fine = (result - expected).abs() <= bound || expected.is_nan() && result.is_nan();
                assert!(
                    fine || expected == result,
                    "{name} of {}: {result}, not {expected}",
                    f32_bits(*bits_in)
                );
            }
        }
        assert!(moved > 1000, "{name} is not perturbed");
    }
}

#[test]
fn atomics() {
    // Thirty-two lanes on one word in shared memory.
    let atomic = |op: &str| {
        let snippet = format!(
            ".shared .align 8 .b8 cell[8]; mov.u32 %r2, cell; setp.eq.u32 %q, %rb, 0; @%q st.shared.u64 [%r2], 5;\n\
            bar.sync 0; {op} bar.sync 0; ld.shared.u32 %r, [%r2];"
        );
        let results = warp(&snippet, Out::R, |lane| lane + 1);
        assert!(results.iter().all(|&result| result == results[0]), "{op}");
        results[0]
    };
    assert_eq!(atomic("atom.shared.add.u32 %r, [%r2], %ra;"), 5 + 528);
    assert_eq!(atomic("red.shared.max.s32 [%r2], %ra;"), 32);
    assert_eq!(atomic("atom.shared.min.u32 %r, [%r2], %ra;"), 1);
    assert_eq!(atomic("atom.shared.inc.u32 %r, [%r2], 6;"), (5 + 32) % 7);
    assert_eq!(atomic("atom.shared.dec.u32 %r, [%r2], 6;"), (5 + 7 * 5 - 32) % 7);
    assert_eq!(atomic("atom.shared.or.b32 %r, [%r2], %ra;"), 63);
    assert_eq!(atomic("atom.shared.cas.b32 %r, [%r2], 5, %ra;"), 1);
    assert_eq!(atomic("atom.shared.exch.b32 %r, [%r2], 9;"), 9);
    assert_eq!(atomic("red.shared.xor.b32 [%r2], %ra;"), (1..33).fold(5, |all, x| all ^ x));
}

#[test]
fn what_is_not_known_is_an_error_with_its_line() {
    let body = |instruction: &str| {
        format!(
            ".version 8.0\n.target sm_80\n.address_size 64\n.entry k() {{\n.reg .b32 %r<4>;\n{instruction}\nret;\n}}"
        )
    };
    for (instruction, named) in [
        ("tex.2d.v4.f32.s32 %r1, %r2;", "tex.2d.v4.f32.s32"),
        ("add.wild.u32 %r1, %r2, %r3;", "add.wild.u32"),
        ("frobnicate %r1;", "frobnicate"),
    ] {
        let error = Module::parse(&body(instruction)).err().expect("not PTX that is known").to_string();
        assert!(error.contains("PTX line 6") && error.contains(named), "{error}");
    }
    for broken in [
        "mov.u32 %r1, %nosuch;",
        "bra NOWHERE;",
        "mov.u32 %r1 %r2;",
        "ld.global.u32 %r1, %r2;",
        "{",
        "@%q ret;",
    ] {
        assert!(Module::parse(&body(broken)).is_err(), "{broken}");
    }
}

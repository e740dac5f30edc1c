//! A QR code (ISO/IEC 18004), so that a telephone can open a tunnel.
//!
//! No more than a URL needs: bytes, error correction level L, versions 1 to 6, which hold up to 134 bytes.

use std::fmt::{self, Write};

/// Codewords of a version, and how many of them are for error correction; versions above 5 have two blocks of these.
const VERSIONS: [(usize, usize, usize); 6] =
    [(26, 7, 1), (44, 10, 1), (70, 15, 1), (100, 20, 1), (134, 26, 1), (86, 18, 2)];

/// The empty margin that a reader needs, in modules.
const MARGIN: isize = 4;

/// The generator of the bits of the format, and what they are masked with.
const FORMAT_GENERATOR: u32 = 0x537;
const FORMAT_MASK: u32 = 0x5412;

/// A square of dark and light modules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct QrCode {
    size: usize,
    /// Row by row.
    dark: Vec<bool>,
    /// Modules that are not for data.
    reserved: Vec<bool>,
}

impl QrCode {
    /// The code of a text; `None` where it is longer than 134 bytes.
    pub(crate) fn new(text: &str) -> Option<Self> {
        // Mode and length take up 12 bits.
        let fits = |(total, correction, blocks): &(usize, usize, usize)| {
            text.len() + 2 <= (total - correction) * blocks
        };
        let index = VERSIONS.iter().position(fits)?;
        let codewords = codewords(text.as_bytes(), VERSIONS[index]);
        let mut code = QrCode::patterns(index + 1);
        code.draw(&codewords);
        let masked = (0..8).map(|mask| code.masked(mask));
        masked.min_by_key(QrCode::penalty)
    }

    /// The rows, each with a `1` for a dark module and a `0` for a light one.
    #[cfg(feature = "inspect")]
    pub(crate) fn rows(&self) -> Vec<String> {
        let digit = |dark: &bool| if *dark { '1' } else { '0' };
        self.dark.chunks(self.size).map(|row| row.iter().map(digit).collect()).collect()
    }

    /// The modules that are the same in each code of a version.
    fn patterns(version: usize) -> Self {
        let size = 17 + 4 * version;
        let mut code = QrCode { size, dark: vec![false; size * size], reserved: vec![false; size * size] };
        for (x, y) in [(3, 3), (size - 4, 3), (3, size - 4)] {
            code.square(x, y, 4, |ring| ring != 2 && ring != 4);
        }
        if version > 1 {
            code.square(size - 7, size - 7, 2, |ring| ring != 1);
        }
        for at in 8..size - 8 {
            *code.fixed(at, 6) = at % 2 == 0;
            *code.fixed(6, at) = at % 2 == 0;
        }
        // The format's place.
        for at in 0..9 {
            for (x, y) in [(8, at), (at, 8)] {
                if !code.reserved[y * size + x] {
                    *code.fixed(x, y) = false;
                }
            }
        }
        for at in size - 8..size {
            *code.fixed(8, at) = false;
            *code.fixed(at, 8) = false;
        }
        *code.fixed(8, size - 8) = true;
        code
    }

    /// Rings around a module, within the code.
    fn square(&mut self, x: usize, y: usize, radius: isize, is_dark: impl Fn(isize) -> bool) {
        for dy in -radius..=radius {
            for dx in -radius..=radius {
                let inside = |at: usize, by| at.checked_add_signed(by).filter(|at| *at < self.size);
                if let (Some(x), Some(y)) = (inside(x, dx), inside(y, dy)) {
                    *self.fixed(x, y) = is_dark(dx.abs().max(dy.abs()));
                }
            }
        }
    }

    /// A module that is not for data: whether it is dark.
    fn fixed(&mut self, x: usize, y: usize) -> &mut bool {
        self.reserved[y * self.size + x] = true;
        &mut self.dark[y * self.size + x]
    }

    /// Draws data from the lower right corner, two columns at a time, up and down.
    fn draw(&mut self, codewords: &[u8]) {
        let mut bits = codewords.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1 == 1));
        let mut right = self.size - 1;
        let mut is_upward = true;
        loop {
            for step in 0..self.size {
                let y = if is_upward { self.size - 1 - step } else { step };
                for x in [right, right - 1] {
                    let at = y * self.size + x;
                    if !self.reserved[at] {
                        // Modules that remain are light.
                        self.dark[at] = bits.next().unwrap_or(false);
                    }
                }
            }
            is_upward = !is_upward;
            match right {
                // Past the column of the timing pattern.
                8 => right = 5,
                1 => return,
                _ => right -= 2,
            }
        }
    }

    /// The code with one of the eight masks, and the format that says which.
    fn masked(&self, mask: u32) -> Self {
        let mut code = self.clone();
        for y in 0..self.size {
            for x in 0..self.size {
                let is_inverted = match mask {
                    0 => (x + y) % 2 == 0,
                    1 => y % 2 == 0,
                    2 => x % 3 == 0,
                    3 => (x + y) % 3 == 0,
                    4 => (x / 3 + y / 2) % 2 == 0,
                    5 => x * y % 2 + x * y % 3 == 0,
                    6 => (x * y % 2 + x * y % 3) % 2 == 0,
                    _ => ((x + y) % 2 + x * y % 3) % 2 == 0,
                };
                let at = y * self.size + x;
                code.dark[at] ^= is_inverted && !self.reserved[at];
            }
        }
        code.draw_format(mask);
        code
    }

    fn draw_format(&mut self, mask: u32) {
        // Level L is 01.
        let data = 1 << 3 | mask;
        let mut rest = data << 10;
        for bit in (10..15).rev() {
            if rest >> bit & 1 == 1 {
                rest ^= FORMAT_GENERATOR << (bit - 10);
            }
        }
        let format = (data << 10 | rest) ^ FORMAT_MASK;
        for bit in 0..15 {
            let is_dark = format >> bit & 1 == 1;
            let (x, y) = match bit {
                0..6 => (8, bit),
                6 => (8, 7),
                7 => (8, 8),
                8 => (7, 8),
                _ => (14 - bit, 8),
            };
            *self.fixed(x, y) = is_dark;
            let (x, y) = if bit < 8 { (self.size - 1 - bit, 8) } else { (8, self.size - 15 + bit) };
            *self.fixed(x, y) = is_dark;
        }
    }

    fn is_dark(&self, x: usize, y: usize) -> bool {
        self.dark[y * self.size + x]
    }

    /// How hard a mask makes it for readers: long runs, and blocks.
    fn penalty(&self) -> usize {
        let lines = |swap: bool| {
            (0..self.size).map(move |line| {
                let at = |index| if swap { self.is_dark(line, index) } else { self.is_dark(index, line) };
                let (mut penalty, mut run) = (0, 1);
                for index in 1..self.size {
                    run = if at(index) == at(index - 1) { run + 1 } else { 1 };
                    penalty += match run {
                        5 => 3,
                        6.. => 1,
                        _ => 0,
                    };
                }
                penalty
            })
        };
        let blocks = (1..self.size).flat_map(|y| (1..self.size).map(move |x| (x, y))).filter(|&(x, y)| {
            let dark = self.is_dark(x, y);
            [(x - 1, y), (x, y - 1), (x - 1, y - 1)].iter().all(|&(x, y)| self.is_dark(x, y) == dark)
        });
        lines(false).sum::<usize>() + lines(true).sum::<usize>() + 3 * blocks.count()
    }
}

/// Two rows of modules a line, dark on light whatever the terminal's colours are.
impl fmt::Display for QrCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = isize::try_from(self.size).unwrap_or(0);
        let is_dark = |x: isize, y: isize| {
            let is_inside = (0..size).contains(&x) && (0..size).contains(&y);
            is_inside && self.is_dark(x.unsigned_abs(), y.unsigned_abs())
        };
        for y in (-MARGIN..size + MARGIN).step_by(2) {
            f.write_str("\x1b[30;107m")?;
            for x in -MARGIN..size + MARGIN {
                f.write_char(match (is_dark(x, y), is_dark(x, y + 1)) {
                    (true, true) => '█',
                    (true, false) => '▀',
                    (false, true) => '▄',
                    (false, false) => ' ',
                })?;
            }
            f.write_str("\x1b[0m\n")?;
        }
        Ok(())
    }
}

/// The bytes of a code: data, and what corrects its errors, block by block and then interleaved.
fn codewords(text: &[u8], (total, correction, blocks): (usize, usize, usize)) -> Vec<u8> {
    let room = (total - correction) * blocks;
    // Mode 4, bytes, and an eight-bit length; then zeros, and a filling.
    let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
    let mut data = vec![0x40 | length >> 4];
    let mut last = length;
    for byte in text {
        data.push(last << 4 | byte >> 4);
        last = *byte;
    }
    data.push(last << 4);
    let filling = [0xec, 0x11].into_iter().cycle().take(room - data.len());
    data.extend(filling);
    let data: Vec<&[u8]> = data.chunks(total - correction).collect();
    let corrections: Vec<Vec<u8>> = data.iter().map(|block| remainder(block, correction)).collect();
    let interleaved = |blocks: &[&[u8]]| -> Vec<u8> {
        let longest = blocks.first().map_or(0, |block| block.len());
        (0..longest)
            .flat_map(|index| blocks.iter().map(move |block| block[index]).collect::<Vec<_>>())
            .collect()
    };
    let mut all = interleaved(&data);
    all.extend(interleaved(&corrections.iter().map(Vec::as_slice).collect::<Vec<_>>()));
    all
}

/// The remainder of Reed and Solomon over the field of 256 elements with the polynomial 0x11d.
fn remainder(data: &[u8], degree: usize) -> Vec<u8> {
    let mut generator = vec![0; degree];
    generator[degree - 1] = 1;
    let mut root = 1;
    for _ in 0..degree {
        for index in 0..degree {
            generator[index] = product(generator[index], root);
            if let Some(&next) = generator.get(index + 1) {
                generator[index] ^= next;
            }
        }
        root = product(root, 2);
    }
    let mut rest = vec![0; degree];
    for byte in data {
        let factor = byte ^ rest[0];
        rest.rotate_left(1);
        rest[degree - 1] = 0;
        rest.iter_mut().zip(&generator).for_each(|(rest, of)| *rest ^= product(*of, factor));
    }
    rest
}

fn product(a: u8, b: u8) -> u8 {
    let mut product: u8 = 0;
    for bit in (0..8).rev() {
        let carry = product >> 7;
        product = (product << 1) ^ (carry * 0x1d);
        product ^= (b >> bit & 1) * a;
    }
    product
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text that another implementation reads.
    fn read(code: &QrCode) -> String {
        const SCALE: usize = 4;
        const EDGE: usize = 4;
        let side = (code.size + 2 * EDGE) * SCALE;
        let mut image = rqrr::PreparedImage::prepare_from_greyscale(side, side, |x, y| {
            let module = |at: usize| (at / SCALE).checked_sub(EDGE).filter(|at| *at < code.size);
            let is_dark = module(x).zip(module(y)).is_some_and(|(x, y)| code.is_dark(x, y));
            if is_dark { 0 } else { 255 }
        });
        image.detect_grids().first().expect("a code").decode().expect("a text").1
    }

    #[test]
    fn another_implementation_reads_each_version() {
        for length in [1, 17, 18, 32, 33, 53, 54, 78, 79, 106, 107, 134] {
            let text: String = "https://shop.tunnel.example/".chars().cycle().take(length).collect();
            assert_eq!(read(&QrCode::new(&text).unwrap()), text);
        }
        assert_eq!(QrCode::new(&"x".repeat(135)), None);
    }

    #[test]
    fn a_terminal_shows_two_rows_a_line_with_a_margin() {
        let shown = QrCode::new("http://x.localhost:3000").unwrap().to_string();
        assert_eq!(shown.lines().count(), (25 + 8_usize).div_ceil(2));
        let light = format!("\x1b[30;107m{}\x1b[0m", " ".repeat(25 + 8));
        assert_eq!(shown.lines().next(), Some(light.as_str()));
    }
}

//! The curves of a run as a picture: loss, rewards and accuracy over DPO steps.

use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use dpo_kernels_candle::PairMetrics;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::register_font;

use crate::history::History;

const SIZE: (u32, u32) = (900, 1200);
const FONT: &str = "sans-serif";

const TRAIN_GOOD: RGBColor = RGBColor(166, 206, 227);
const HELD_OUT_GOOD: RGBColor = RGBColor(31, 120, 180);
const TRAIN_BAD: RGBColor = RGBColor(251, 180, 174);
const HELD_OUT_BAD: RGBColor = RGBColor(227, 26, 28);

type Panel<'a> = DrawingArea<BitMapBackend<'a>, Shift>;

struct Curve {
    name: &'static str,
    color: RGBColor,
    points: Vec<(f64, f64)>,
}

/// Draws the curves of `history` into a PNG file.
pub fn save(history: &History, path: &Path) -> Result<()> {
    register_font(FONT, FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT)
        .map_err(|_| anyhow!("the plot's font does not load"))?;
    let root = BitMapBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let panels = root.split_evenly((3, 1));
    let train = |name, color, value| curve(name, color, history.train(), value);
    let held_out = |name, color, value| {
        curve(name, color, history.held_out().map(|(step, evaluation)| (step, evaluation.metrics)), value)
    };
    draw(
        &panels[0],
        "loss",
        &[train("train", TRAIN_GOOD, |m| m.loss), held_out("held-out", HELD_OUT_GOOD, |m| m.loss)],
    )?;
    draw(
        &panels[1],
        "rewards",
        &[
            train("chosen, train", TRAIN_GOOD, |m| m.chosen_reward),
            train("rejected, train", TRAIN_BAD, |m| m.rejected_reward),
            held_out("chosen, held-out", HELD_OUT_GOOD, |m| m.chosen_reward),
            held_out("rejected, held-out", HELD_OUT_BAD, |m| m.rejected_reward),
        ],
    )?;
    draw(
        &panels[2],
        "reward accuracy",
        &[train("train", TRAIN_GOOD, |m| m.accuracy), held_out("held-out", HELD_OUT_GOOD, |m| m.accuracy)],
    )?;
    root.present().with_context(|| format!("cannot write {}", path.display()))
}

fn curve(
    name: &'static str,
    color: RGBColor,
    rows: impl Iterator<Item = (usize, PairMetrics<f32>)>,
    value: fn(&PairMetrics<f32>) -> f32,
) -> Curve {
    let points = rows.map(|(step, metrics)| (step as f64, f64::from(value(&metrics)))).collect();
    Curve { name, color, points }
}

fn draw(panel: &Panel, title: &str, curves: &[Curve]) -> Result<()> {
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let mut chart = ChartBuilder::on(panel)
        .caption(title, (FONT, 24))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(52)
        .build_cartesian_2d(range(points().map(|point| point.0)), range(points().map(|point| point.1)))?;
    chart.configure_mesh().light_line_style(WHITE).x_desc("DPO step").label_style((FONT, 14)).draw()?;
    for Curve { name, color, points } in curves {
        let style = color.stroke_width(2);
        chart
            .draw_series(LineSeries::new(points.iter().copied(), style))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    chart
        .configure_series_labels()
        .label_font((FONT, 14))
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    Ok(())
}

/// The range of the finite ones among `values`, and a little more.
fn range(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (low, high) = values
        .filter(|value| value.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    if low > high {
        return 0.0..1.0;
    }
    let margin = (0.05 * (high - low)).max(1e-3);
    low - margin..high + margin
}

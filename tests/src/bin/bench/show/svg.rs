//! A plot as SVG: lines over places, a whisker from the least to the greatest of each point.
//!
//! Decides sizes and colours. Must not change figures. Invariant: the same figures give the same bytes.

use crate::figures::{Plot, Spread};

use super::short;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 380.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 215.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
const COLOURS: [&str; 8] =
    ["#1b6ca8", "#d1495b", "#3f8f4f", "#8e5ea2", "#c98a1b", "#5b6770", "#00a6a6", "#b04a9b"];

/// The plot's file.
pub(super) fn draw(plot: &Plot) -> String {
    let axis = Axis::of(plot);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\" fill=\"#222\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n"
    );
    svg += &text(LEFT, 22.0, "start", 15, &plot.title);
    for tick in axis.ticks() {
        let y = axis.y(tick);
        svg += &line((LEFT, y), (WIDTH - RIGHT, y), "#ddd", 1.0);
        svg += &text(LEFT - 6.0, y + 4.0, "end", 12, &short(tick));
    }
    for (place, name) in plot.places.iter().enumerate() {
        svg += &text(axis.x(place), HEIGHT - BOTTOM + 18.0, "middle", 12, name);
    }
    svg += &text(f64::midpoint(LEFT, WIDTH - RIGHT), HEIGHT - 10.0, "middle", 12, &plot.across);
    svg += &text(LEFT - 6.0, TOP - 8.0, "end", 12, &plot.upwards);
    for (series, (index, colour)) in plot.series.iter().zip(COLOURS.iter().cycle().enumerate()) {
        svg += &points(&axis, &series.points, colour);
        #[expect(clippy::cast_precision_loss, reason = "a handful of lines")]
        let y = TOP + 18.0 * index as f64;
        let x = WIDTH - RIGHT + 16.0;
        svg += &line((x, y - 4.0), (x + 18.0, y - 4.0), colour, 2.0);
        svg += &text(x + 24.0, y, "start", 12, &series.name);
    }
    svg + "</svg>\n"
}

fn points(axis: &Axis, points: &[Option<Spread>], colour: &str) -> String {
    let mut svg = String::new();
    let mut last: Option<(f64, f64)> = None;
    for (place, point) in points.iter().enumerate() {
        let Some(point) = point else {
            last = None;
            continue;
        };
        let at = (axis.x(place), axis.y(point.median));
        svg += &line((at.0, axis.y(point.min)), (at.0, axis.y(point.max)), colour, 1.0);
        svg += &format!("<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>\n", at.0, at.1);
        if let Some(last) = last {
            svg += &line(last, at, colour, 2.0);
        }
        last = Some(at);
    }
    svg
}

fn line(from: (f64, f64), to: (f64, f64), colour: &str, width: f64) -> String {
    format!(
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\" stroke-width=\"{width}\"/>\n",
        from.0, from.1, to.0, to.1
    )
}

fn text(x: f64, y: f64, anchor: &str, size: u32, text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\">{text}</text>\n")
}

/// Where figures and places lie.
struct Axis {
    low: f64,
    high: f64,
    logarithmic: bool,
    places: usize,
}

impl Axis {
    fn of(plot: &Plot) -> Self {
        let all = || plot.series.iter().flat_map(|series| series.points.iter().flatten());
        let high = all().map(|point| point.max).fold(f64::MIN_POSITIVE, f64::max);
        let least = all().map(|point| point.min).filter(|value| *value > 0.0).fold(high, f64::min);
        let (low, high) = if plot.logarithmic {
            (10f64.powf(least.log10().floor()), 10f64.powf(high.log10().ceil()))
        } else {
            let step = step(high);
            (0.0, (high / step).ceil() * step)
        };
        Self { low, high, logarithmic: plot.logarithmic, places: plot.places.len().max(1) }
    }

    fn x(&self, place: usize) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a handful of places")]
        let share = (place as f64 + 0.5) / self.places as f64;
        LEFT + share * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        let share = if self.logarithmic {
            (value.max(self.low) / self.low).log10() / (self.high / self.low).log10().max(1.0)
        } else {
            value / self.high
        };
        HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
    }

    fn ticks(&self) -> Vec<f64> {
        let mut ticks = Vec::new();
        let mut tick = self.low;
        while tick <= self.high * 1.001 && ticks.len() < 20 {
            ticks.push(tick);
            tick = if self.logarithmic { tick * 10.0 } else { tick + step(self.high) };
        }
        ticks
    }
}

/// A round distance of which about five fit below `high`.
fn step(high: f64) -> f64 {
    let rough = high / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|step| *step >= rough)
        .unwrap_or(rough)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::Series;

    #[test]
    fn a_plot_shows_each_point_and_escapes_names() {
        let spread = |values: &[f64]| Some(Spread::of(values));
        let plot = Plot {
            name: "p".to_owned(),
            title: "a < b".to_owned(),
            across: "flows".to_owned(),
            upwards: "ns".to_owned(),
            places: vec!["1".to_owned(), "2".to_owned(), "3".to_owned()],
            logarithmic: false,
            series: vec![Series {
                name: "s".to_owned(),
                points: vec![spread(&[1.0, 2.0]), None, spread(&[37.0])],
            }],
        };
        let svg = draw(&plot);
        assert_eq!(svg.matches("<circle").count(), 2);
        assert!(svg.contains("a &lt; b") && svg.ends_with("</svg>\n"));
        assert_eq!(Axis::of(&plot).high, 40.0);
    }
}

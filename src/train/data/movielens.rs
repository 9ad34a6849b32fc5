//! Ratings of movies, in the layouts of the MovieLens sets, brought into time order.
//!
//! The published files are ordered by user, not by time, so the whole file is read into an index of 16 bytes a rating
//! (25 million ratings: 400 MB, up to twice that while it grows) and sorted by time, then by line. A label is positive from a
//! rating of 3.5.
#![forbid(unsafe_code)]

use std::path::Path;

use super::text::{Layout, Lines, fingerprint};
use super::{Description, Samples, Shape, Source, made_up_time};
use crate::{Error, Result, UnixSeconds};

/// The rating from which a label is positive.
const LIKED: f32 = 3.5;

/// One rating; sorted by time, then by place in the file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rating {
    time: u32,
    /// The rating's place in the file, shifted left by one, and the label in the lowest bit.
    order: u32,
    user: u32,
    movie: u32,
}

/// A file of ratings.
pub struct Ratings {
    ratings: Vec<Rating>,
    position: usize,
    description: Description,
    fingerprint: [u8; 32],
}

impl Ratings {
    /// Reads the file and brings it into time order.
    pub fn open(path: &Path, layout: Layout) -> Result<Ratings> {
        let mut lines = Lines::open(path)?;
        if layout.header {
            lines.skip()?;
        }
        let mut ratings = Vec::new();
        while let Some(line) = lines.next_line()? {
            let parsed = parse(line, layout, ratings.len());
            ratings.push(parsed.map_err(|what| lines.error(what))?);
        }
        ratings.shrink_to_fit();
        ratings.sort_unstable();
        let description = Description {
            format: layout.name,
            name: path.display().to_string(),
            synthetic: false,
            samples: Some(ratings.len() as u64),
            best_auc: None,
            shape: Shape { keys: 2, dense: 0 },
        };
        Ok(Ratings { ratings, position: 0, description, fingerprint: fingerprint(path, layout.name)? })
    }
}

/// One line, or what is wrong with it.
fn parse(line: &str, layout: Layout, place: usize) -> Result<Rating, String> {
    let expected = 3 + usize::from(layout.timed);
    let mut columns = line.split(layout.separator);
    let mut column = |name: &str| columns.next().map(str::trim).ok_or_else(|| format!("no {name}: {expected} columns expected"));
    let (user, movie, rating) = (column("user")?, column("movie")?, column("rating")?);
    let time = if layout.timed { Some(column("time")?) } else { None };
    if columns.next().is_some() {
        return Err(format!("more than {expected} columns"));
    }
    let whole = |name: &str, text: &str| {
        text.parse::<u32>().map_err(|_| format!("the {name} '{text}' is not a whole number of 0 to {}", u32::MAX))
    };
    let (user, movie) = (whole("user", user)?, whole("movie", movie)?);
    let stars = rating.parse::<f32>().ok().filter(|stars| (0.0..=10.0).contains(stars));
    let stars = stars.ok_or_else(|| format!("the rating '{rating}' is not a number of 0 to 10"))?;
    let time: UnixSeconds = match time {
        Some(text) => whole("time (unix seconds)", text)?,
        None => made_up_time(place as u64),
    };
    let order = u32::try_from(place).ok().filter(|place| *place < 1 << 31).ok_or("more than 2^31 ratings")?;
    Ok(Rating { time, order: order << 1 | u32::from(stars >= LIKED), user, movie })
}

impl Source for Ratings {
    fn description(&self) -> &Description {
        &self.description
    }

    fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    fn position(&self) -> u64 {
        self.position as u64
    }

    fn seek(&mut self, position: u64) -> Result<()> {
        let end = self.ratings.len();
        let at = usize::try_from(position).ok().filter(|at| *at <= end);
        self.position = at.ok_or_else(|| Error::InvalidOption {
            option: "data",
            what: format!("position {position} is beyond the {end} ratings of {}", self.description.name),
        })?;
        Ok(())
    }

    fn next(&mut self, into: &mut Samples, most: usize) -> Result<usize> {
        let end = self.ratings.len().min(self.position.saturating_add(most));
        let taken = &self.ratings[self.position..end];
        for rating in taken {
            into.labels.push((rating.order & 1) as f32);
            into.times.push(rating.time);
            into.keys.extend([u64::from(rating.user), 1 << 48 | u64::from(rating.movie)]);
        }
        self.position = end;
        Ok(taken.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::data::open;

    fn all(text: &str) -> Result<Samples> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ratings");
        std::fs::write(&path, text).unwrap();
        let mut source = open(&path)?;
        let mut samples = Samples::default();
        while source.next(&mut samples, 2)? > 0 {}
        Ok(samples)
    }

    #[test]
    fn every_layout_gives_the_same_stream_in_time_order() {
        let expected = Samples {
            labels: vec![0.0, 1.0, 1.0],
            times: vec![5, 7, 7],
            keys: vec![2, 1 << 48 | 30, 1, 1 << 48 | 10, 1, 1 << 48 | 20],
            dense: vec![],
        };
        assert_eq!(all("userId,movieId,rating,timestamp\n1,10,4.0,7\n1,20,3.5,7\n2,30,3.0,5\n").unwrap(), expected);
        assert_eq!(all("1::10::4::7\n1::20::5::7\n2::30::3::5").unwrap(), expected);
        assert_eq!(all("1\t10\t4\t7\n1\t20\t5\t7\n2\t30\t3\t5\n").unwrap(), expected);
        let untimed = all("user,item,rating\n2,30,3\n1,10,4\n1,20,5\n").unwrap();
        assert_eq!((untimed.times, untimed.keys), (vec![1, 1, 1], expected.keys));
    }

    #[test]
    fn a_malformed_line_is_named() {
        let header = "userId,movieId,rating,timestamp\n1,10,4.0,7\n";
        for bad in
            ["1,10,4.0", "1,10,4.0,7,8", "x,10,4.0,7", "1,-1,4.0,7", "1,2,NaN,7", "1,2,99,7", "1,2,3,1e9", "", "1,2,3,9999999999"]
        {
            match all(&format!("{header}{bad}\n1,2,3,4\n")) {
                Err(Error::Input { line: 3, what, .. }) => assert!(!what.is_empty()),
                other => panic!("{bad}: {other:?}"),
            }
        }
    }

    #[test]
    fn seeking_goes_on_exactly_there() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("u.data"), "1\t10\t4\t9\n2\t30\t3\t5\n1\t20\t5\t7\n").unwrap();
        let mut source = open(dir.path()).unwrap();
        let (mut first, mut second) = (Samples::default(), Samples::default());
        assert_eq!(source.next(&mut first, 2).unwrap(), 2);
        let at = source.position();
        assert_eq!(source.next(&mut first, 2).unwrap(), 1);
        source.seek(at).unwrap();
        assert_eq!(source.next(&mut second, 2).unwrap(), 1);
        assert_eq!(second.keys, first.keys[4..]);
        assert!(source.seek(4).is_err());
    }
}

//! What the JSON values at one place have in common: kinds, fields, formats, enumerations.
//!
//! Values come from a foreign server, so everything has a bound: depth, fields of an object, length of their names, and
//! shapes in all. Where a bound is reached, anything may stand.

use std::collections::BTreeMap;

use serde_json::{Number, Value};

use super::format::Formats;
use crate::limits::{
    IMPORT_DEPTH_MAX, IMPORT_ENUM_MAX, IMPORT_ENUM_SEEN_MIN, IMPORT_FIELDS_MAX, IMPORT_KEY_BYTES_MAX, IMPORT_TUPLE_MAX,
};

/// Fields from which on an object may be a map because each object has only few of them.
const SPARSE_FIELDS_MIN: usize = 20;

/// Fields from which on an object is a map if all their names look like data.
const DATA_KEYS_MIN: usize = 4;

/// Bytes of a value of an enumeration.
const ENUM_BYTES_MAX: usize = 48;

/// Shapes that may still be made.
#[derive(Debug)]
pub(super) struct Budget {
    pub(super) shapes_left: usize,
}

/// The values of one place.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Shape {
    /// Values so far.
    pub(super) count: u64,
    pub(super) has_null: bool,
    pub(super) has_boolean: bool,
    pub(super) numbers: Option<Numbers>,
    pub(super) strings: Option<Strings>,
    pub(super) arrays: Option<Box<Arrays>>,
    pub(super) objects: Option<Box<Objects>>,
    /// A bound was reached.
    pub(super) is_anything: bool,
    /// The value that makes a message one of its type.
    pub(super) constant: Option<Value>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Numbers {
    pub(super) has_fraction: bool,
    pub(super) has_negative: bool,
    /// Above the largest `i64`.
    pub(super) has_large: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Strings {
    pub(super) count: u64,
    /// Each value, as long as they could be an enumeration.
    values: Option<BTreeMap<String, u64>>,
    /// Those that all values have.
    formats: Formats,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Arrays {
    /// All arrays so far have this length.
    Tuple(Vec<Shape>),
    List(Shape),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Objects {
    Record {
        count: u64,
        fields: BTreeMap<String, Shape>,
    },
    /// The names of the fields are data.
    Map(Shape),
}

impl Shape {
    fn anything() -> Shape {
        Shape { is_anything: true, ..Shape::default() }
    }

    /// Takes one more value into account, which lies at this depth.
    pub(super) fn add(&mut self, value: &Value, depth: usize, budget: &mut Budget) {
        self.count += 1;
        if self.is_anything {
            return;
        }
        match value {
            Value::Null => self.has_null = true,
            Value::Bool(_) => self.has_boolean = true,
            Value::Number(number) => self.numbers.get_or_insert_default().add(number),
            Value::String(text) => match &mut self.strings {
                Some(strings) => strings.merge(Strings::new(text)),
                None => self.strings = Some(Strings::new(text)),
            },
            Value::Array(_) | Value::Object(_) if depth >= IMPORT_DEPTH_MAX => self.give_up(),
            Value::Array(elements) => self.add_array(elements, depth, budget),
            Value::Object(_) => {
                let empty = || Box::new(Objects::Record { count: 0, fields: BTreeMap::new() });
                self.objects.get_or_insert_with(empty).add(value, depth, budget);
            }
        }
    }

    fn add_array(&mut self, elements: &[Value], depth: usize, budget: &mut Budget) {
        let is_short = elements.len() <= IMPORT_TUPLE_MAX;
        let arrays = self.arrays.get_or_insert_with(|| {
            Box::new(match is_short && budget.take(elements.len()) {
                true => Arrays::Tuple(vec![Shape::default(); elements.len()]),
                false => Arrays::List(Shape::default()),
            })
        });
        arrays.add(elements, depth, budget);
    }

    /// From here on anything is possible.
    fn give_up(&mut self) {
        *self = Shape { count: self.count, ..Shape::anything() };
    }

    /// Takes the values of another place into account.
    fn merge(&mut self, other: Shape) {
        self.count += other.count;
        if self.is_anything || other.is_anything {
            return self.give_up();
        }
        self.has_null |= other.has_null;
        self.has_boolean |= other.has_boolean;
        if let Some(numbers) = other.numbers {
            self.numbers.get_or_insert_default().merge(numbers);
        }
        match (&mut self.strings, other.strings) {
            (Some(own), Some(others)) => own.merge(others),
            (own, others) => *own = own.take().or(others),
        }
        match (&mut self.arrays, other.arrays) {
            (Some(own), Some(others)) => own.merge(*others),
            (own, others) => *own = own.take().or(others),
        }
        match (&mut self.objects, other.objects) {
            (Some(own), Some(others)) => own.merge(*others),
            (own, others) => *own = own.take().or(others),
        }
    }

    /// All values are known: decides which objects are maps and which arrays are tuples.
    pub(super) fn settle(&mut self) {
        if let Some(objects) = &mut self.objects {
            objects.settle();
        }
        if let Some(arrays) = &mut self.arrays {
            arrays.settle();
        }
    }

    /// How many kinds of values besides null there are.
    pub(super) fn kinds(&self) -> usize {
        let kinds = [
            self.has_boolean,
            self.numbers.is_some(),
            self.strings.is_some(),
            self.arrays.is_some(),
            self.objects.is_some(),
        ];
        kinds.into_iter().filter(|is_there| *is_there).count()
    }

    /// Nothing is known.
    pub(super) fn is_unknown(&self) -> bool {
        self.is_anything || self.kinds() == 0
    }

    fn has_same_kinds(&self, other: &Shape) -> bool {
        let kinds = |shape: &Shape| {
            (
                shape.has_boolean,
                shape.numbers.is_some(),
                shape.strings.is_some(),
                shape.arrays.is_some(),
                shape.objects.is_some(),
            )
        };
        kinds(self) == kinds(other) || self.is_unknown() || other.is_unknown()
    }
}

impl Budget {
    fn take(&mut self, count: usize) -> bool {
        let is_enough = self.shapes_left >= count;
        self.shapes_left -= if is_enough { count } else { 0 };
        is_enough
    }
}

impl Numbers {
    fn add(&mut self, number: &Number) {
        self.has_fraction |= number.is_f64();
        self.has_negative |= number.as_i64().is_some_and(|number| number < 0);
        self.has_large |= number.is_u64() && !number.is_i64();
    }

    fn merge(&mut self, other: Numbers) {
        self.has_fraction |= other.has_fraction;
        self.has_negative |= other.has_negative;
        self.has_large |= other.has_large;
    }
}

impl Strings {
    fn new(text: &str) -> Strings {
        let is_value = text.len() <= ENUM_BYTES_MAX && !text.chars().any(char::is_control);
        let values = is_value.then(|| BTreeMap::from([(text.to_owned(), 1)]));
        Strings { count: 1, values, formats: Formats::of(text) }
    }

    fn merge(&mut self, other: Strings) {
        self.count += other.count;
        self.formats = self.formats.both(other.formats);
        self.values = match (self.values.take(), other.values) {
            (Some(mut own), Some(others)) => {
                for (value, count) in others {
                    *own.entry(value).or_default() += count;
                }
                Some(own).filter(|values| values.len() <= IMPORT_ENUM_MAX)
            }
            _ => None,
        };
    }

    /// The format that all values have.
    pub(super) fn format(&self) -> Option<&'static str> {
        self.formats.name()
    }

    /// The values, if they are few and were all seen often. One alone is no enumeration: who has watched one share
    /// has seen one symbol.
    pub(super) fn enumeration(&self) -> Option<Vec<&str>> {
        let values = self.values.as_ref()?;
        let is_enumeration = values.len() >= 2
            && self.count >= IMPORT_ENUM_SEEN_MIN * values.len() as u64
            && self.format().is_none()
            && !values.contains_key(super::mask::MASK);
        is_enumeration.then(|| values.keys().map(String::as_str).collect())
    }
}

impl Arrays {
    fn add(&mut self, elements: &[Value], depth: usize, budget: &mut Budget) {
        if let Arrays::Tuple(shapes) = self {
            if shapes.len() == elements.len() {
                for (shape, element) in shapes.iter_mut().zip(elements) {
                    shape.add(element, depth + 1, budget);
                }
                return;
            }
            self.become_list();
        }
        let Arrays::List(shape) = self else { return };
        elements.iter().for_each(|element| shape.add(element, depth + 1, budget));
    }

    fn become_list(&mut self) {
        if let Arrays::Tuple(shapes) = self {
            let mut all = Shape::default();
            shapes.drain(..).for_each(|shape| all.merge(shape));
            *self = Arrays::List(all);
        }
    }

    fn merge(&mut self, mut other: Arrays) {
        match (&mut *self, &mut other) {
            (Arrays::Tuple(own), Arrays::Tuple(others)) if own.len() == others.len() => {
                own.iter_mut().zip(others.drain(..)).for_each(|(own, other)| own.merge(other));
                return;
            }
            _ => {}
        }
        self.become_list();
        other.become_list();
        if let (Arrays::List(own), Arrays::List(others)) = (self, other) {
            own.merge(others);
        }
    }

    fn settle(&mut self) {
        if let Arrays::Tuple(shapes) = self {
            let is_mixed = shapes.windows(2).any(|pair| !pair[0].has_same_kinds(&pair[1]));
            let has_constant = shapes.iter().any(|shape| shape.constant.is_some());
            if !is_mixed && !has_constant {
                self.become_list();
            }
        }
        match self {
            Arrays::Tuple(shapes) => shapes.iter_mut().for_each(Shape::settle),
            Arrays::List(shape) => shape.settle(),
        }
    }
}

impl Objects {
    fn add(&mut self, value: &Value, depth: usize, budget: &mut Budget) {
        let Value::Object(members) = value else { return };
        for (name, value) in members {
            let is_name = name.len() <= IMPORT_KEY_BYTES_MAX;
            match self {
                Objects::Record { fields, .. } if fields.contains_key(name) => {
                    fields.get_mut(name).expect("it is there").add(value, depth + 1, budget);
                }
                Objects::Record { fields, .. } if is_name && fields.len() < IMPORT_FIELDS_MAX && budget.take(1) => {
                    let mut shape = Shape::default();
                    shape.add(value, depth + 1, budget);
                    fields.insert(name.clone(), shape);
                }
                Objects::Record { .. } => {
                    self.become_map();
                    self.add_to_map(value, depth, budget);
                }
                Objects::Map(_) => self.add_to_map(value, depth, budget),
            }
        }
        if let Objects::Record { count, .. } = self {
            *count += 1;
        }
    }

    fn add_to_map(&mut self, value: &Value, depth: usize, budget: &mut Budget) {
        if let Objects::Map(shape) = self {
            shape.add(value, depth + 1, budget);
        }
    }

    fn become_map(&mut self) {
        if let Objects::Record { fields, .. } = self {
            let mut all = Shape::default();
            std::mem::take(fields).into_values().for_each(|shape| all.merge(shape));
            *self = Objects::Map(all);
        }
    }

    fn merge(&mut self, mut other: Objects) {
        if let (Objects::Record { count, fields }, Objects::Record { count: more, fields: others }) =
            (&mut *self, &mut other)
        {
            *count += *more;
            for (name, shape) in std::mem::take(others) {
                match fields.get_mut(&name) {
                    Some(own) => own.merge(shape),
                    None => drop(fields.insert(name, shape)),
                }
            }
            if fields.len() > IMPORT_FIELDS_MAX {
                self.become_map();
            }
            return;
        }
        self.become_map();
        other.become_map();
        if let (Objects::Map(own), Objects::Map(others)) = (self, other) {
            own.merge(others);
        }
    }

    fn settle(&mut self) {
        if let Objects::Record { count, fields } = self {
            let seen: u64 = fields.values().map(|shape| shape.count).sum();
            let is_sparse = fields.len() >= SPARSE_FIELDS_MIN && seen * 4 < *count * fields.len() as u64;
            let is_data = fields.len() >= DATA_KEYS_MIN && fields.keys().all(|name| is_data(name));
            let has_constant = fields.values().any(|shape| shape.constant.is_some());
            if (is_sparse || is_data) && !has_constant {
                self.become_map();
            }
        }
        match self {
            Objects::Record { fields, .. } => fields.values_mut().for_each(Shape::settle),
            Objects::Map(shape) => shape.settle(),
        }
    }
}

/// Whether a field's name is rather a value: a number or an identifier.
fn is_data(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_digit()) && !name.is_empty() || Formats::of(name).is_identifier()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shape(values: &[Value]) -> Shape {
        let mut shape = Shape::default();
        let mut budget = Budget { shapes_left: 1000 };
        values.iter().for_each(|value| shape.add(value, 0, &mut budget));
        shape.settle();
        shape
    }

    fn is_map(shape: &Shape) -> bool {
        matches!(shape.objects.as_deref(), Some(Objects::Map(_)))
    }

    #[test]
    fn kinds_are_counted() {
        let found = shape(&[json!(1), json!(2.5), json!(null), json!("a"), json!(u64::MAX), json!(-1)]);
        assert_eq!((found.count, found.kinds(), found.has_null), (6, 2, true));
        let numbers = found.numbers.unwrap();
        assert!(numbers.has_fraction && numbers.has_negative && numbers.has_large);
    }

    #[test]
    fn objects_with_data_for_names_are_maps() {
        assert!(is_map(&shape(&[json!({"1": 1, "22": 2, "3": 3, "4": 4})])));
        assert!(!is_map(&shape(&[json!({"1": 1, "b": 2, "3": 3, "4": 4})])));
        let one_each: Vec<Value> = (0..40).map(|n| json!({format!("S{n}"): {"price": n}})).collect();
        assert!(is_map(&shape(&one_each)));
        let full: Value = (0..40).map(|n| (format!("S{n}"), json!(n))).collect::<serde_json::Map<_, _>>().into();
        assert!(!is_map(&shape(&[full])));
    }

    #[test]
    fn arrays_of_one_length_and_mixed_kinds_are_tuples() {
        let is_tuple = |shape: &Shape| matches!(shape.arrays.as_deref(), Some(Arrays::Tuple(_)));
        assert!(is_tuple(&shape(&[json!(["a", 1]), json!(["b", 2])])));
        assert!(!is_tuple(&shape(&[json!(["a", "b"]), json!(["c", "d"])])));
        assert!(!is_tuple(&shape(&[json!(["a", 1]), json!(["b", 2, 3])])));
    }

    #[test]
    fn few_strings_that_come_often_are_an_enumeration() {
        let sides: Vec<Value> = (0..40).map(|n| json!(if n % 2 == 0 { "buy" } else { "sell" })).collect();
        assert_eq!(shape(&sides).strings.unwrap().enumeration(), Some(vec!["buy", "sell"]));
        assert_eq!(shape(&sides[..18]).strings.unwrap().enumeration(), None);
        assert_eq!(shape(&vec![json!("AAPL"); 100]).strings.unwrap().enumeration(), None);
        let names: Vec<Value> = (0..400).map(|n| json!(format!("n{}", n % 9))).collect();
        assert_eq!(shape(&names).strings.unwrap().enumeration(), None);
    }

    #[test]
    fn every_bound_ends_in_a_map_or_in_anything() {
        let mut deep = json!(1);
        for _ in 0..100 {
            deep = json!([deep]);
        }
        let mut wide = serde_json::Map::new();
        for n in 0..=IMPORT_FIELDS_MAX {
            wide.insert(format!("field{n}"), json!(n));
        }
        assert!(is_map(&shape(&[Value::Object(wide)])));
        assert!(is_map(&shape(&[json!({"x".repeat(IMPORT_KEY_BYTES_MAX + 1): 1})])));
        let mut found = &shape(&[deep]);
        let mut depth = 0;
        while let Some(Arrays::List(next)) = found.arrays.as_deref() {
            (found, depth) = (next, depth + 1);
        }
        assert!(found.is_anything);
        assert_eq!(depth, IMPORT_DEPTH_MAX);

        let mut budget = Budget { shapes_left: 50 };
        let mut many = Shape::default();
        for n in 0..1000 {
            many.add(&json!({format!("k{}", n % 40): {format!("l{n}"): 1}}), 0, &mut budget);
        }
        assert_eq!(many.count, 1000);
    }
}

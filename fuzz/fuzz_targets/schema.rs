//! Schemas of any kind: refused with a reason, or a table that learns, commits and comes back with the schema that it had.
#![no_main]

#[path = "../../tests/driver/mod.rs"]
mod driver;
#[path = "../shared/stores.rs"]
mod stores;

use arbitrary::Arbitrary;
use embedrock::{Admission, Error, Expiry, Initializer, Missing, Optimizer, Schedule, Segment, Store, TableSchema, Update};
use libfuzzer_sys::fuzz_target;
use stores::{DIR, options};

#[derive(Arbitrary, Debug)]
struct Input {
    schema: Schema,
    then: Schema,
    keys: Vec<u8>,
    gradient: f32,
    rate: Option<f32>,
    step: Option<u64>,
}

#[derive(Arbitrary, Debug)]
struct Schema {
    name: String,
    dim: u8,
    large_dim: Option<u64>,
    rule: u8,
    numbers: [f32; 4],
    /// Setters that are called, whether they suit the rule or not.
    setters: u8,
    steps: u32,
    /// Dims of further segments: few schemas have any.
    more: Vec<u8>,
    initializer: (u8, f32),
    admission: (u8, u8),
    ttl: Option<u32>,
    zeros: bool,
}

impl Schema {
    fn optimizer(&self) -> Optimizer {
        let [rate, a, b, c] = self.numbers;
        let rules = [
            Optimizer::sgd,
            Optimizer::adagrad,
            Optimizer::rowwise_adagrad,
            Optimizer::adam,
            Optimizer::ftrl,
            Optimizer::adam_w,
            Optimizer::lazy_adam,
            Optimizer::amsgrad,
            Optimizer::group_ftrl,
            Optimizer::group_adagrad,
            Optimizer::adagrad_w,
            Optimizer::adadelta,
            Optimizer::momentum,
            |_| Optimizer::moving_average(),
            Optimizer::rmsprop,
            Optimizer::rmsprop_v2,
            Optimizer::batch_softmax,
        ];
        let mut optimizer = rules[usize::from(self.rule) % rules.len()](rate);
        // Rarely: most rules refuse most of them.
        if self.setters > 128 {
            let setters: [&dyn Fn(Optimizer) -> Optimizer; 14] = [
                &|o| o.weight_decay(a),
                &|o| o.initial_accumulator(a),
                &|o| o.betas(a, b),
                &|o| o.epsilon(c),
                &|o| o.l1(a),
                &|o| o.l2(b),
                &|o| o.beta(c),
                &|o| o.weight_decay(b).epsilon(c),
                &|o| o.decay(a),
                &|o| o.nesterov(true),
                &|o| o.group_lasso(a).beta(b),
                &|o| o.clip_value(a).clip_norm(b),
                &|o| o.schedule(Schedule::polynomial(self.steps, a, b).warm_up(self.steps / 2)),
                &|o| o.schedule(Schedule::exponential(self.steps, a)),
            ];
            optimizer = setters[usize::from(self.setters) % setters.len()](optimizer);
        }
        optimizer
    }

    fn build(&self) -> TableSchema {
        let (kind, value) = self.initializer;
        let initializers = [Initializer::constant(value), Initializer::uniform(value), Initializer::normal(value)];
        let initializer = initializers.get(usize::from(kind) % 5).copied().unwrap_or_default();
        let threshold = u32::from(self.admission.1);
        let admissions = [Admission::always(), Admission::count(threshold), Admission::probabilistic(threshold)];
        let dim = self.large_dim.map_or(usize::from(self.dim), |dim| dim as usize);
        let of = |dim| Segment::new(dim).optimizer(self.optimizer()).initializer(initializer);
        let more: Vec<Segment> = self.more.iter().filter(|_| self.setters < 64).map(|&dim| of(usize::from(dim))).collect();
        let all_dims = more.iter().map(Segment::dim).fold(dim, usize::saturating_add);
        TableSchema::new(self.name.clone(), all_dims)
            .segments([of(dim)].into_iter().chain(more))
            .admission(admissions[usize::from(self.admission.0) % 3])
            .expiry(self.ttl.map_or(Expiry::never(), Expiry::after_secs))
            .missing(if self.zeros { Missing::Zeros } else { Missing::Initial })
    }
}

fuzz_target!(|input: Input| {
    let fs = driver::disk();
    let store = Store::open(DIR, options(&fs).create(true)).expect("an empty disk");
    let schema = input.schema.build();
    assert!(schema.row_bytes() / 4 >= schema.lanes().min(usize::MAX / 8));
    let table = match store.create_table(schema.clone()) {
        Ok(table) => table,
        Err(Error::InvalidSchema { .. } | Error::BudgetTooSmall { .. }) => return,
        Err(error) => panic!("{error}"),
    };
    let keys: Vec<u64> = input.keys.iter().take(20).map(|key| u64::from(*key)).collect();
    let values = vec![input.gradient; keys.len() * schema.dim()];
    let mut update = Update::at(1);
    update = input.rate.map_or(update.clone(), |rate| update.learning_rate(rate));
    update = input.step.map_or(update.clone(), |step| update.step(step));
    let _ = table.apply_gradients(&keys, &values, &update);
    let _ = table.modify(&keys, &update, |at, row| {
        row.fill(at as f32);
        Ok(())
    });
    let mut rows = vec![0.0; keys.len() * schema.dim()];
    let found = table.lookup(&keys, &mut rows).expect("sound rows");
    assert!(found <= keys.len());
    // Another schema of the same name is another table's, or changes what may change.
    let then = TableSchema::new(schema.name(), schema.dim()).optimizer(input.then.optimizer());
    let changed = store.create_table(then.initializer(input.then.build_initializer()));
    let in_force = table.schema();
    assert!(changed.is_ok() || in_force == schema);
    let digest = store.digest().expect("sound rows");
    store.commit(b"schema").expect("room for a commit");
    drop((table, changed, store));
    let store = Store::open(DIR, options(&fs)).expect("a store that committed opens");
    assert_eq!(store.table(schema.name()).expect("it was committed").schema(), in_force);
    assert_eq!(store.digest().expect("sound rows"), digest);
});

impl Schema {
    fn build_initializer(&self) -> Initializer {
        if self.zeros { Initializer::default() } else { Initializer::zeros() }
    }
}

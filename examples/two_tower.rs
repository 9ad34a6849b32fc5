//! A two-tower model: a user's and an item's vector, whose product says whether the user wants the item.
//!
//! `cargo run --release --example two_tower [STEPS]`. Users and items have a hidden taste of eight, and users click on their own.
#![forbid(unsafe_code)]

use embedrock::{GradientRequest, Initializer, LookupRequest, Optimizer, Result, Store, StoreOptions, TableSchema, Update};

const DIM: usize = 16;
const BATCH: usize = 256;
const USERS: u64 = 20_000;
const ITEMS: u64 = 2_000;
const TASTES: u64 = 8;

/// Pseudo-random bits of a number.
fn bits(x: u64) -> u64 {
    let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb) ^ x >> 31
}

/// A batch of users with an item each; every second one is to the user's taste, and that is what they click on.
fn batch(number: u64) -> (Vec<u64>, Vec<u64>, Vec<f32>) {
    let (mut users, mut items, mut clicks) = (Vec::new(), Vec::new(), Vec::new());
    for at in 0..BATCH as u64 {
        let draw = bits(number << 16 | at);
        let user = draw % USERS;
        let any = (draw >> 20) % (ITEMS / TASTES) * TASTES;
        let item = if at % 2 == 0 { any + user % TASTES } else { any + (draw >> 50) % TASTES };
        users.push(user);
        items.push(item);
        clicks.push(f32::from(u8::from(item % TASTES == user % TASTES)));
    }
    (users, items, clicks)
}

fn main() -> Result<()> {
    let dir = std::env::temp_dir().join(format!("embedrock-two-tower-{}", std::process::id()));
    // A tenth of the rows fit: the others wait on disk, and the result is the same to the bit.
    let store = Store::open(&dir, StoreOptions::default().memory_budget(64 << 20).hot_rows(2_200))?;
    let tower = |name| {
        let schema = TableSchema::new(name, DIM).optimizer(Optimizer::adagrad(0.1)).initializer(Initializer::uniform(0.3));
        store.create_table(schema)
    };
    let (users, items) = (tower("user")?, tower("item")?);
    let (mut u, mut v) = (vec![0.0f32; BATCH * DIM], vec![0.0f32; BATCH * DIM]);
    let mut loss = 0.0f64;
    let steps = std::env::args().nth(1).and_then(|steps| steps.parse().ok()).unwrap_or(3_000u64);
    for step in 0..steps {
        let (user, item, clicks) = batch(step);
        store.lookup_many([LookupRequest::new(&users, &user, &mut u), LookupRequest::new(&items, &item, &mut v)])?;
        let (mut of_u, mut of_v) = (vec![0.0; u.len()], vec![0.0; v.len()]);
        for (at, click) in clicks.iter().enumerate() {
            let row = at * DIM..(at + 1) * DIM;
            let logit: f32 = u[row.clone()].iter().zip(&v[row.clone()]).map(|(a, b)| a * b).sum();
            let error = 1.0 / (1.0 + (-logit).exp()) - click;
            loss -= f64::from(1.0 - error.abs()).max(1e-9).ln();
            for lane in row {
                (of_u[lane], of_v[lane]) = (error * v[lane], error * u[lane]);
            }
        }
        let update = Update::at(1_700_000_000 + step);
        store.apply_gradients_many(
            [GradientRequest::new(&users, &user, &of_u), GradientRequest::new(&items, &item, &of_v)],
            &update,
        )?;
        if step % 500 == 499 {
            println!(
                "step {}: log loss {:.3}, commit {}",
                step + 1,
                loss / (500 * BATCH) as f64,
                store.commit(&step.to_le_bytes())?
            );
            loss = 0.0;
        }
    }
    drop((users, items));
    store.close()?;
    std::fs::remove_dir_all(&dir).ok();
    Ok(())
}

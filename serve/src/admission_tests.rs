//! The rule of the budget: nobody gets all of it, and nothing is held beyond it.

use std::time::Duration;

use super::*;

const LIMIT: usize = 64 << 20;

fn budget() -> Budget {
    Budget::new(ByteSize(LIMIT as u64), &prometheus::Registry::new()).unwrap()
}

/// Takes pieces of `bytes` until no more are given.
fn greedy(share: &Share, bytes: usize) -> Vec<Held> {
    std::iter::from_fn(|| share.hold(bytes).ok()).collect()
}

#[test]
fn one_that_takes_all_it_gets_gets_half_and_the_next_ones_a_fair_share_each() {
    let budget = budget();
    let piece = 64 << 10;
    let hogs: Vec<Share> = (0..4).map(|_| budget.share()).collect();
    let mut held: Vec<Vec<Held>> = vec![greedy(&hogs[0], piece)];
    assert_eq!(held[0].len() * piece, LIMIT / 2);
    // What others hold already is given back as they finish; until then each finds half of what is free.
    held.extend(hogs[1..].iter().map(|hog| greedy(hog, piece)));
    assert_eq!(
        held.iter().map(|of_one| of_one.len() * piece).collect::<Vec<_>>(),
        [LIMIT / 2, LIMIT / 4, LIMIT / 8, LIMIT / 16]
    );
    for _ in 0..2000 {
        for (hog, held) in hogs.iter().zip(&mut held) {
            held.pop();
            held.extend(greedy(hog, piece));
        }
    }
    let fair = LIMIT / 5;
    for of_one in &held {
        let bytes = of_one.len() * piece;
        assert!(bytes.abs_diff(fair) < fair / 4, "{bytes} of {fair}");
    }
    assert!(budget.share().hold(4 << 20).is_ok(), "who comes next finds room");
    drop(held);
    assert_eq!(budget.used(), 0);
}

#[test]
fn small_things_get_through_where_large_ones_do_not_and_the_limit_holds_for_them_too() {
    let budget = budget();
    let share = budget.share();
    let large = greedy(&share, 1 << 20);
    assert_eq!(share.hold(1 << 20).unwrap_err(), Overload::Share);
    let small = greedy(&share, SMALL_HOLD_BYTES);
    assert!(!small.is_empty());
    assert_eq!(share.hold(SMALL_HOLD_BYTES).unwrap_err(), Overload::Share);
    assert!(budget.used() < LIMIT * 3 / 4);
    let shares: Vec<Share> = (0..1000).map(|_| budget.share()).collect();
    let of_others: Vec<_> = shares.iter().map(|share| greedy(share, SMALL_HOLD_BYTES)).collect();
    assert!(budget.used() <= LIMIT);
    assert_eq!(budget.share().hold(LIMIT).unwrap_err(), Overload::Memory);
    drop((large, small, of_others));
    assert_eq!(budget.used(), 0);
}

#[test]
fn a_hold_that_does_not_grow_stays_what_it_was() {
    let budget = budget();
    let share = budget.share();
    let mut held = share.hold(1000).unwrap();
    assert_eq!(held.grow(LIMIT), Err(Overload::Memory));
    held.grow(24).unwrap();
    assert_eq!((held.bytes(), budget.used()), (1024, 1024));
    held.shrink(10);
    held.shrink(20);
    assert_eq!((held.bytes(), budget.used()), (10, 10));
    assert_eq!(share.room(), LIMIT - 20);
    assert!(share.hold(share.room()).is_ok() && share.hold(share.room() + 1).is_err());
}

#[test]
fn what_is_answered_while_the_client_takes_nothing_is_held_until_it_does() {
    let budget = budget();
    let share = budget.share();
    let held = share.hold(1000).unwrap();
    share.0.blocked();
    drop(held);
    assert_eq!(budget.used(), 1000);
    share.0.moved();
    assert_eq!(budget.used(), 0);
    share.0.blocked();
    drop(share.hold(7).unwrap());
    drop(share);
    assert_eq!(budget.used(), 0, "and no longer than the connection");
}

#[tokio::test]
async fn a_connection_rests_when_no_call_is_in_progress_and_nothing_moves() {
    const PATIENCE: Duration = Duration::from_millis(20);
    let budget = budget();
    let (silent, calling, blocked) = (budget.share(), budget.share(), budget.share());
    let call = calling.call();
    blocked.0.blocked();
    let (speaking, taking) = (budget.share(), budget.share());
    let lively = async {
        loop {
            speaking.0.heard();
            taking.0.moved();
            tokio::task::yield_now().await;
        }
    };
    // Many times its patience, so that each of the others would have its turn.
    let rests_often = async {
        for _ in 0..5 {
            silent.rests(PATIENCE).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), async {
        tokio::select! {
            () = calling.rests(PATIENCE) => panic!("a call is in progress"),
            () = blocked.rests(PATIENCE) => panic!("something waits for the client"),
            () = speaking.rests(PATIENCE) => panic!("the client says something now and then"),
            () = taking.rests(PATIENCE) => panic!("the client takes something now and then"),
            () = lively => {}
            () = rests_often => {}
        }
        drop(call);
        blocked.0.moved();
        tokio::join!(calling.rests(PATIENCE), blocked.rests(PATIENCE));
    })
    .await
    .expect("they rest");
}

#[tokio::test]
async fn a_client_that_takes_nothing_while_answers_wait_stalls_and_no_other_does() {
    const FOREVER: Duration = Duration::from_secs(3600);
    let budget = budget();
    let (idle, busy, stuck, blocked) = (budget.share(), budget.share(), budget.share(), budget.share());
    let _answers = (busy.answer(), stuck.answer());
    blocked.0.blocked();
    let both =
        async { tokio::join!(stuck.stalls(Duration::from_millis(20)), blocked.stalls(Duration::from_millis(20))) };
    let moves = async {
        loop {
            busy.0.moved();
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), async {
        tokio::select! {
            () = idle.stalls(Duration::ZERO) => panic!("nothing waits for it"),
            () = busy.stalls(FOREVER) => panic!("it takes something now and then"),
            () = moves => {}
            _ = both => {}
        }
    })
    .await
    .expect("they stall");
}

/// By the clock of the runtime, which goes on to the next deadline when there is nothing else to do.
#[tokio::test(start_paused = true)]
async fn a_client_that_takes_a_little_now_and_then_is_not_left() {
    const PATIENCE: Duration = Duration::from_secs(30);
    let share = budget().share();
    let answer = share.answer();
    share.0.blocked();
    let takes = async {
        for number in 0..10 {
            tokio::time::sleep(PATIENCE - Duration::from_millis(1)).await;
            // A piece of an answer, or of anything else.
            if number % 2 == 0 { answer.moves() } else { share.0.moved() }
        }
    };
    tokio::select! {
        () = share.stalls(PATIENCE) => panic!("it takes something"),
        () = takes => {}
    }
    let since = tokio::time::Instant::now();
    tokio::time::timeout(PATIENCE * 2, share.stalls(PATIENCE)).await.expect("it takes nothing any more");
    assert_eq!(since.elapsed(), PATIENCE);
}

//! Visits that the last run could not end, because it was killed or the power went: subscribers heard that those animals
//! came, and hear now that they went. The database ended them by itself.

use std::sync::Arc;

use crate::mqtt::outbox::Outbox;
use crate::store::Store;
use crate::track::{Event, EventKind, Visit};
use crate::wire;

/// Waits until the store knows, and puts the last words about them into the outbox.
pub(super) async fn tell(node: Arc<str>, store: Arc<Store>, outbox: Arc<Outbox>) {
    let mut left = store.left_open();
    // A store that ends before it ever opened its database knows of none.
    let Ok(Some(left)) = left.wait_for(Option::is_some).await.map(|left| left.clone()) else {
        return;
    };
    for stored in left.iter() {
        let before = Arc::new(stored.visit.clone());
        let after = Arc::new(Visit { end: Some(before.seen), ..stored.visit.clone() });
        let event = Event { kind: EventKind::End, before, after };
        let message = wire::event(&node, &event, stored.kept);
        outbox.push(wire::message_id(&event).into(), message);
    }
}

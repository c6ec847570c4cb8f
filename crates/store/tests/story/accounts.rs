use clarateach_ids::{KeyId, UserId};
use clarateach_store::{KeyRecord, NewWorkshop, Store, StoreError, TokenHash, UserRecord};

use crate::classroom::*;

pub(crate) async fn users(store: &dyn Store) {
    assert!(store.users().await.unwrap().is_empty());
    let user =
        |name: &str, ms| UserRecord { id: UserId::random(), name: name.to_owned(), created_at: at(ms) };
    let (late, early) = (user("Late", 2), user("Early", 1));
    store.create_user(late.clone(), TokenHash([1; 32])).await.unwrap();
    store.create_user(early.clone(), TokenHash([2; 32])).await.unwrap();
    assert_eq!(store.users().await.unwrap(), [early.clone(), late.clone()]);
    assert_eq!(store.user_by_token(&TokenHash([1; 32])).await.unwrap(), late);
    assert!(matches!(
        store.user_by_token(&TokenHash([3; 32])).await,
        Err(StoreError::NotFound { what: "user" })
    ));
    let same_token = store.create_user(user("Eve", 3), TokenHash([1; 32])).await;
    assert!(matches!(same_token, Err(StoreError::Conflict { .. })), "{same_token:?}");
    let same_id = store.create_user(late.clone(), TokenHash([4; 32])).await;
    assert!(matches!(same_id, Err(StoreError::Conflict { .. })), "{same_id:?}");

    let owned = NewWorkshop { owner: late.id.clone(), ..new_workshop(1) };
    let owned = store.create_workshop(owned).await.unwrap();
    let refused = store.delete_user(&late.id).await;
    assert!(matches!(refused, Err(StoreError::Conflict { .. })), "{refused:?}");
    assert_eq!(store.users().await.unwrap().len(), 2);
    purge(store, &owned).await;
    store.delete_user(&late.id).await.unwrap();
    store.delete_user(&early.id).await.unwrap();
    assert!(matches!(store.delete_user(&late.id).await, Err(StoreError::NotFound { .. })));
    assert!(store.users().await.unwrap().is_empty());
}

pub(crate) async fn keys(store: &dyn Store) {
    let installation = store.installation().await.unwrap();
    let key = |ms: i64| KeyRecord {
        id: KeyId::random(),
        installation: installation.clone(),
        sealed_private: vec![9; 48],
        public: [u8::try_from(ms).unwrap(); 32],
        created_at: at(ms),
        signs_from: at(ms + 10),
        retired_at: None,
    };
    let (old, middle, new) = (key(1), key(2), key(3));
    for key in [&middle, &new, &old] {
        store.add_key(key.clone()).await.unwrap();
    }
    assert_eq!(store.keys().await.unwrap(), [old.clone(), middle.clone(), new.clone()]);
    assert!(matches!(store.add_key(old.clone()).await, Err(StoreError::Conflict { .. })));
    store.retire_keys_except(&middle.id, at(50)).await.unwrap();
    store.retire_keys_except(&new.id, at(60)).await.unwrap();
    let retired: Vec<_> = store.keys().await.unwrap().into_iter().map(|key| key.retired_at).collect();
    assert_eq!(retired, [Some(at(50)), Some(at(60)), Some(at(50))]);
    store.drop_keys_retired_before(at(60)).await.unwrap();
    assert_eq!(store.keys().await.unwrap().into_iter().map(|key| key.id).collect::<Vec<_>>(), [middle.id]);
    store.drop_keys_retired_before(at(61)).await.unwrap();
    assert!(store.keys().await.unwrap().is_empty());
}

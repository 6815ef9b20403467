//! Members, invitations and assignments in pages, while people come and go.

use std::collections::BTreeSet;

use sqlx::PgConnection;
use tenantry::members::{
    self, Assignment, AssignmentFilter, Invitation, Member, MemberFilter, Status,
};

use crate::support::{
    cluster::execute,
    people::{self, Belongs, new_id},
    team::Team,
};

impl Team {
    async fn page(
        &self,
        filter: &MemberFilter,
        after: Option<(String, String)>,
        limit: i64,
    ) -> Vec<Member> {
        let of = self.organization();
        let list = async |connection: &mut _| {
            members::list_page(connection, of, filter, after, limit).await
        };
        self.app.replica.db.run(list).await.unwrap()
    }

    async fn names(&self, filter: &MemberFilter) -> Vec<String> {
        let page = self.page(filter, None, 100).await;
        page.into_iter().map(|member| member.display_name).collect()
    }

    async fn invitations(&self, state: Option<&str>, before: Option<i64>) -> Vec<Invitation> {
        let of = self.organization();
        let list = async |connection: &mut _| {
            members::list_invitations_page(connection, of, state, before, 2).await
        };
        self.app.replica.db.run(list).await.unwrap()
    }

    async fn assigned(
        &self,
        filter: &AssignmentFilter,
        after: Option<(String, String)>,
    ) -> Vec<Assignment> {
        let of = self.organization();
        let list = async |connection: &mut _| {
            members::list_assignments_page(connection, of, filter, after, 2).await
        };
        self.app.replica.db.run(list).await.unwrap()
    }

    /// Many memberships of the same name at once, as if events had told of them.
    async fn crowd(&self, prefix: &str, name: &str, members: usize) {
        let sql = format!(
            "with numbered as (select '{prefix}' || lpad(number::text, 4, '0') as id from generate_series(1, {members}) as number)
             insert into memberships (source, membership_id, content, updated_at, digest)
             select 'workos', 'om_' || id,
                    jsonb_build_object('organization_id', '{}', 'user_id', 'user_' || id, 'status', 'active',
                                       'role', 'member', 'first_name', '{name}'),
                    now(), ''
             from numbered",
            self.org
        );
        execute(&self.app.deployment.control_url, &sql).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_of_one_name_are_each_listed_once_while_others_come() {
    let team = Team::alone().await;
    // lower case of these is not the same everywhere, and they sort differently by bytes and by language
    for (prefix, name) in [
        ("i", "İpek"),
        ("s", "STRAẞE"),
        ("e", "Émile"),
        ("z", "_zed"),
    ] {
        team.crowd(prefix, name, 3).await;
    }
    team.crowd("m", "Ada", 500).await;
    let (mut seen, mut after, mut pages) = (Vec::new(), None, 0);
    loop {
        let page = team.page(&MemberFilter::default(), after.take(), 37).await;
        let Some(last) = page.last() else { break };
        after = Some((last.sort_name.clone(), last.user_id.clone()));
        seen.extend(page.into_iter().map(|member| member.user_id));
        pages += 1;
        // some before, some after, some of the same name
        for name in ["Aaron", "Zoe", "Ada"] {
            let prefix = format!("n{pages:02}{name}");
            team.crowd(&prefix, name, 1).await;
        }
    }
    let unique: BTreeSet<&String> = seen.iter().collect();
    assert_eq!(unique.len(), seen.len(), "somebody is listed twice");
    let from_the_beginning = seen.iter().filter(|user| !user.starts_with("user_n"));
    assert_eq!(from_the_beginning.count(), 512, "somebody is missing");
    team.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_found_by_status_role_and_a_text_that_is_no_pattern() {
    let team = Team::alone().await;
    let ada = team.has("Ada", "admin").await;
    let bob = team.has("Bob", "member").await;
    team.has("100%_sure", "member").await;
    team.remove(&bob, &ada).await.unwrap();
    let of = |text: &str| MemberFilter {
        search: Some(text.to_owned()),
        ..MemberFilter::default()
    };
    let removed = MemberFilter {
        status: Some(Status::Removed),
        ..MemberFilter::default()
    };
    assert_eq!(team.names(&removed).await, ["Bob Doe"]);
    let role = |slug: &str| MemberFilter {
        role: Some(slug.to_owned()),
        ..MemberFilter::default()
    };
    assert_eq!(team.names(&role("admin")).await, ["Ada Doe"]);
    assert_eq!(team.names(&role("none")).await, Vec::<String>::new());
    assert_eq!(team.names(&of("aDA d")).await, ["Ada Doe"], "the name");
    assert_eq!(
        team.names(&of("BOB@ACME")).await,
        ["Bob Doe"],
        "the address"
    );
    assert_eq!(
        team.names(&of(&ada.to_uppercase())).await,
        ["Ada Doe"],
        "the id"
    );
    assert_eq!(team.names(&of("%_")).await, ["100%_sure Doe"]);
    assert_eq!(team.names(&of("_o_")).await, Vec::<String>::new());
    assert_eq!(team.names(&of("\\")).await, Vec::<String>::new());
    team.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invitations_and_assignments_have_pages_as_well() {
    let team = Team::alone().await;
    let ada = team.has("Ada", "admin").await;
    let bob = team.has("Bob", "member").await;
    let invitation = |number: u32, state: &str, minute: u32| {
        let id = format!("invitation_{number}");
        let email = format!("{number}@acme.example");
        let mut event = people::accepted(&id, (&team.org, &email), "", minute);
        event["event"] = format!("invitation.{state}").into();
        event["data"]["state"] = if state == "created" { "pending" } else { state }.into();
        event
    };
    for number in 1..=5 {
        team.app.accepts(&[&invitation(number, "created", 1)]).await;
        team.app.is_idle().await;
    }
    let emails = |page: &[Invitation]| -> Vec<String> {
        page.iter()
            .map(|invitation| invitation.email.clone().unwrap())
            .collect()
    };
    let first = team.invitations(None, None).await;
    assert_eq!(emails(&first), ["5@acme.example", "4@acme.example"]);
    // what changes meanwhile keeps its place
    team.app.accepts(&[&invitation(2, "revoked", 2)]).await;
    team.app.is_idle().await;
    let second = team.invitations(None, Some(first[1].number)).await;
    assert_eq!(emails(&second), ["3@acme.example", "2@acme.example"]);
    let third = team.invitations(None, Some(second[1].number)).await;
    assert_eq!(emails(&third), ["1@acme.example"]);
    let revoked = team.invitations(Some("revoked"), None).await;
    assert_eq!(emails(&revoked), ["2@acme.example"]);

    for (user, customer) in [(&ada, "c1"), (&ada, "c2"), (&bob, "c1"), (&bob, "c3")] {
        team.assign(user, customer).await.unwrap();
    }
    let all = AssignmentFilter::default();
    let mut seen = BTreeSet::new();
    let mut after = None;
    loop {
        let page = team.assigned(&all, after.take()).await;
        let Some(last) = page.last() else { break };
        after = Some((last.user_id.clone(), last.customer_id.clone()));
        for found in page {
            assert!(seen.insert((found.user_id, found.customer_id)));
        }
    }
    assert_eq!(seen.len(), 4);
    let of_c1 = AssignmentFilter {
        customer_id: Some("c1".to_owned()),
        ..AssignmentFilter::default()
    };
    assert_eq!(team.assigned(&of_c1, None).await.len(), 2);
    let of_bob = AssignmentFilter {
        user_id: Some(bob.clone()),
        customer_id: Some("c3".to_owned()),
    };
    let found = team.assigned(&of_bob, None).await;
    assert_eq!((found.len(), &*found[0].user_id), (1, bob.as_str()));
    let belongs = Belongs {
        id: &new_id("om"),
        org: "org_other",
        user: &new_id("user"),
        role: "member",
    };
    let elsewhere = people::membership("created", belongs, "active", 1);
    team.app.accepts(&[&elsewhere]).await;
    let everybody = team.page(&MemberFilter::default(), None, 100).await;
    assert_eq!(everybody.len(), 2, "nobody of another organization");
    team.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_signs_up_is_looked_for_alone_and_not_among_everybody() {
    let team = Team::alone().await;
    team.app.tenant(&team.org).is_ready().await;
    team.crowd("known", "Ada", 2_000).await;
    let known = "insert into users (source, user_id, content, updated_at)
                 select source, user_id, jsonb_build_object('email', user_id || '@example.com'), updated_at
                 from memberships
                 where starts_with(user_id, 'user_known');
                 analyze users, memberships";
    execute(&team.app.deployment.control_url, known).await;
    let look = async |tx: &mut PgConnection| {
        let email = "user_known0007@example.com";
        let url = members::find_ready_tenant(tx, "workos", email).await?;
        // of this transaction alone
        let read = "select (coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0))::bigint
                    from pg_stat_xact_user_tables
                    where relname = 'memberships'";
        let read: i64 = sqlx::query_scalar(read).fetch_one(tx).await?;
        Ok::<_, sqlx::Error>((url, read))
    };
    let (url, read) = team.app.replica.db.transaction(look).await.unwrap();
    assert!(url.is_some());
    assert!(read <= 3, "{read} memberships were read");
    team.app.stop().await;
}

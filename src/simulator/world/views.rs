//! The answers of the reads, in GMFY's shapes.

use std::collections::BTreeMap;

use serde::Serialize;

use super::catalogue::{BADGES, CHALLENGES, FEATURES, Measure, RATINGS};
use super::id::Id;
use super::{User, World};
use crate::clock::Timestamp;

type MetaInfo = BTreeMap<&'static str, String>;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::simulator) struct UserView<'a> {
    user_id: &'a str,
    client_id: Id,
    user_ratings: Vec<RatingView<'a>>,
    user_challenges: Vec<ChallengeView<'a>>,
    user_badges: Vec<BadgeView<'a>>,
    user_features: Vec<FeatureView<'a>>,
    user_account_balances: Vec<BalanceView<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::simulator) struct RatingView<'a> {
    user_id: &'a str,
    client_id: Id,
    rating_id: Id,
    name: &'static str,
    value: u64,
    meta_info: MetaInfo,
    position: usize,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::simulator) struct ChallengeView<'a> {
    user_id: &'a str,
    challenge_id: Id,
    client_id: Id,
    progress: u64,
    passed_steps: Vec<StepView>,
    meta_info: MetaInfo,
    name: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct StepView {
    challenge_step_id: Id,
    order: usize,
    weight: usize,
    date_complete: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::simulator) struct BadgeView<'a> {
    user_id: &'a str,
    badge_id: Id,
    client_id: Id,
    acquisition_date: String,
    meta_info: MetaInfo,
    name: &'static str,
    description: &'static str,
    permanent: bool,
    count: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct FeatureView<'a> {
    user_id: &'a str,
    feature_id: Id,
    client_id: Id,
    access_date: String,
    meta_info: MetaInfo,
    name: &'static str,
    description: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct BalanceView<'a> {
    user_id: &'a str,
    client_id: Id,
    resource_key: &'static str,
    amount: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::simulator) struct NoticeView {
    user_id: String,
    client_id: Id,
    message: String,
}

/// A part of a list.
#[derive(Clone, Copy, Debug)]
pub(in crate::simulator) struct Page {
    pub(in crate::simulator) offset: usize,
    pub(in crate::simulator) limit: usize,
}

impl Page {
    fn of<T>(self, items: impl Iterator<Item = T>) -> impl Iterator<Item = T> {
        items.skip(self.offset).take(self.limit)
    }
}

impl World {
    /// One user, as an array; empty for a user that no event named.
    pub(in crate::simulator) fn user(&self, id: &str) -> Vec<UserView<'_>> {
        let Some(&index) = self.by_id.get(id) else { return Vec::new() };
        let positions = std::array::from_fn(|rating| self.position(rating, index));
        self.users.get(index).map(|user| self.user_view(user, positions)).into_iter().collect()
    }

    /// Users in the order in which they were first seen.
    pub(in crate::simulator) fn users(&self, page: Page) -> Vec<UserView<'_>> {
        let mut positions = vec![[0; RATINGS.len()]; self.users.len()];
        for rating in 0..RATINGS.len() {
            for (place, index) in self.rating_order(rating).into_iter().enumerate() {
                if let Some(position) =
                    positions.get_mut(index).and_then(|positions| positions.get_mut(rating))
                {
                    *position = place + 1;
                }
            }
        }
        page.of(self.users.iter().zip(positions))
            .map(|(user, positions)| self.user_view(user, positions))
            .collect()
    }

    /// The badges of one user; empty for a user that no event named.
    pub(in crate::simulator) fn badges(&self, id: &str) -> Vec<BadgeView<'_>> {
        let user = self.by_id.get(id).and_then(|index| self.users.get(*index));
        user.map(|user| self.badge_views(user)).unwrap_or_default()
    }

    /// The best of a rating, or with `descending` positions the last ones first; none where there
    /// is no such rating.
    pub(in crate::simulator) fn rating_top(
        &self,
        id: Id,
        page: Page,
        descending: bool,
    ) -> Option<Vec<RatingView<'_>>> {
        let rating = self.catalogue.ratings.iter().position(|rating| *rating == id)?;
        let mut order: Vec<(usize, usize)> = self
            .rating_order(rating)
            .into_iter()
            .enumerate()
            .map(|(place, index)| (place + 1, index))
            .collect();
        if descending {
            order.reverse();
        }
        Some(
            page.of(order.into_iter())
                .filter_map(|(position, index)| {
                    self.rating_view(self.users.get(index)?, rating, position)
                })
                .collect(),
        )
    }

    /// Those who got furthest in a challenge; none where there is no such challenge.
    pub(in crate::simulator) fn challenge_top(
        &self,
        id: Id,
        page: Page,
    ) -> Option<Vec<ChallengeView<'_>>> {
        let challenge = self.catalogue.challenges.iter().position(|known| *known == id)?;
        Some(
            page.of(self.challenge_order(challenge).into_iter())
                .filter_map(|index| self.challenge_view(self.users.get(index)?, challenge))
                .collect(),
        )
    }

    /// Notifications, oldest first, of one user or of all.
    pub(in crate::simulator) fn notifications(&self, user: Option<&str>) -> Vec<NoticeView> {
        let user = user.map(|id| self.by_id.get(id).copied());
        self.notices
            .iter()
            .filter(|notice| user.is_none_or(|user| user == Some(notice.user)))
            .filter_map(|notice| self.notice_view(notice))
            .collect()
    }

    /// The unread ones among them, which are read from now on.
    pub(in crate::simulator) fn take_unread(&mut self, user: Option<&str>) -> Vec<NoticeView> {
        let user = user.map(|id| self.by_id.get(id).copied());
        let mut taken = Vec::new();
        for notice in &mut self.notices {
            if notice.unread && user.is_none_or(|user| user == Some(notice.user)) {
                notice.unread = false;
                taken.push(*notice);
            }
        }
        taken.iter().filter_map(|notice| self.notice_view(notice)).collect()
    }

    fn notice_view(&self, notice: &super::Notice) -> Option<NoticeView> {
        let user = self.users.get(notice.user)?;
        Some(NoticeView {
            user_id: user.id.to_string(),
            client_id: self.catalogue.client,
            message: notice.news.message(),
        })
    }

    fn user_view<'a>(&self, user: &'a User, positions: [usize; RATINGS.len()]) -> UserView<'a> {
        let (user_id, client_id) = (&*user.id, self.catalogue.client);
        let user_ratings = positions
            .into_iter()
            .enumerate()
            .filter(|(_, position)| *position > 0)
            .filter_map(|(rating, position)| self.rating_view(user, rating, position))
            .collect();
        let user_challenges = (0..CHALLENGES.len())
            .filter(|challenge| user.progress(*challenge) > 0)
            .filter_map(|challenge| self.challenge_view(user, challenge))
            .collect();
        let user_account_balances = [("coins", user.events), ("gems", user.gems)]
            .map(|(resource_key, amount)| BalanceView { user_id, client_id, resource_key, amount })
            .into();
        UserView {
            user_id,
            client_id,
            user_ratings,
            user_challenges,
            user_badges: self.badge_views(user),
            user_features: self.feature_views(user),
            user_account_balances,
        }
    }

    fn rating_view<'a>(
        &self,
        user: &'a User,
        rating: usize,
        position: usize,
    ) -> Option<RatingView<'a>> {
        let definition = RATINGS.get(rating)?;
        Some(RatingView {
            user_id: &user.id,
            client_id: self.catalogue.client,
            rating_id: *self.catalogue.ratings.get(rating)?,
            name: definition.name,
            value: *user.points.get(rating)?,
            meta_info: MetaInfo::from([("unit", definition.unit.to_owned())]),
            position,
        })
    }

    fn challenge_view<'a>(&self, user: &'a User, challenge: usize) -> Option<ChallengeView<'a>> {
        let definition = CHALLENGES.get(challenge)?;
        let steps = user.passed.get(challenge)?.iter().zip(self.catalogue.steps.get(challenge)?);
        let passed_steps = steps
            .enumerate()
            .filter_map(|(order, (passed, id))| {
                Some(StepView {
                    challenge_step_id: *id,
                    order,
                    weight: order + 1,
                    date_complete: date((*passed)?),
                })
            })
            .collect();
        let unit = match definition.measure {
            Measure::Events => "events",
            Measure::Discoveries => "finds",
            Measure::Points => "points",
        };
        let goal = definition.goals.into_iter().max().unwrap_or_default();
        Some(ChallengeView {
            user_id: &user.id,
            challenge_id: *self.catalogue.challenges.get(challenge)?,
            client_id: self.catalogue.client,
            progress: user.progress(challenge),
            passed_steps,
            meta_info: MetaInfo::from([("goal", format!("{goal} {unit}"))]),
            name: definition.name,
        })
    }

    fn badge_views<'a>(&self, user: &'a User) -> Vec<BadgeView<'a>> {
        let earned = BADGES.iter().zip(&self.catalogue.badges).zip(&user.badges);
        earned
            .filter_map(|((definition, id), badge)| {
                let badge = (*badge)?;
                Some(BadgeView {
                    user_id: &user.id,
                    badge_id: *id,
                    client_id: self.catalogue.client,
                    acquisition_date: date(badge.acquired),
                    meta_info: MetaInfo::from([("each", definition.each.to_string())]),
                    name: definition.name,
                    description: definition.description,
                    permanent: definition.permanent,
                    count: badge.count,
                })
            })
            .collect()
    }

    fn feature_views<'a>(&self, user: &'a User) -> Vec<FeatureView<'a>> {
        let unlocked = FEATURES.iter().zip(&self.catalogue.features).zip(&user.features);
        unlocked
            .filter_map(|((definition, id), feature)| {
                Some(FeatureView {
                    user_id: &user.id,
                    feature_id: *id,
                    client_id: self.catalogue.client,
                    access_date: date((*feature)?),
                    meta_info: MetaInfo::from([("points", definition.points.to_string())]),
                    name: definition.name,
                    description: definition.description,
                })
            })
            .collect()
    }
}

/// RFC 3339, in UTC.
fn date(at: Timestamp) -> String {
    i64::try_from(at.as_millis())
        .ok()
        .and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok())
        .unwrap_or_default()
        .to_string()
}

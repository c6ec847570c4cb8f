//! Short names for the parts of nftables rules, see libnftables-json(5).

use std::borrow::Cow;
use std::net::Ipv4Addr;

use nftables::expr::{CT, Expression, Meta, MetaKey, NamedExpression, Payload, PayloadField, Prefix};
use nftables::stmt::{Counter, JumpTarget, Match, Operator, Reject, RejectType, Statement};
use nftables::types::RejectCode;

pub(crate) const ACCEPT: Statement<'static> = Statement::Accept(None);
pub(crate) const DROP: Statement<'static> = Statement::Drop(None);
/// So that a guest's programs are told at once and don't hang.
pub(crate) const REJECT: Statement<'static> = Statement::Reject(Some(Reject {
    _type: Some(RejectType::ICMPX),
    expr: Some(RejectCode::AdminProhibited),
}));

pub(crate) fn count() -> Statement<'static> {
    Statement::Counter(Counter::Anonymous(None))
}

pub(crate) fn jump(chain: &'static str) -> Statement<'static> {
    Statement::Jump(JumpTarget { target: chain.into() })
}

pub(crate) fn from(interface: &str) -> Statement<'static> {
    equal(meta(MetaKey::Iifname), text(interface.to_owned()))
}

pub(crate) fn to(interface: &str) -> Statement<'static> {
    equal(meta(MetaKey::Oifname), text(interface.to_owned()))
}

pub(crate) fn ip6() -> Statement<'static> {
    equal(meta(MetaKey::Nfproto), text("ipv6"))
}

pub(crate) fn ct(key: &'static str, values: &[&'static str]) -> Statement<'static> {
    let left = Expression::Named(NamedExpression::CT(CT { key: key.into(), family: None, dir: None }));
    let right = match values {
        [one] => text(*one),
        several => Expression::List(several.iter().map(|value| text(*value)).collect()),
    };
    Statement::Match(Match { left, right, op: Operator::IN })
}

pub(crate) fn pinned_by(
    mac_of: &'static str,
    mac: &'static str,
    ip_of: &'static str,
    ip: &'static str,
) -> Statement<'static> {
    equal(concat([meta(MetaKey::Iifname), payload(mac_of, mac), payload(ip_of, ip)]), text("@pins"))
}

pub(crate) fn equal(left: Expression<'static>, right: Expression<'static>) -> Statement<'static> {
    Statement::Match(Match { left, right, op: Operator::EQ })
}

pub(crate) fn unequal(left: Expression<'static>, right: Expression<'static>) -> Statement<'static> {
    Statement::Match(Match { left, right, op: Operator::NEQ })
}

pub(crate) fn meta(key: MetaKey) -> Expression<'static> {
    Expression::Named(NamedExpression::Meta(Meta { key }))
}

pub(crate) fn payload(protocol: &'static str, field: &'static str) -> Expression<'static> {
    let field = PayloadField { protocol: protocol.into(), field: field.into() };
    Expression::Named(NamedExpression::Payload(Payload::PayloadField(field)))
}

pub(crate) fn concat<const N: usize>(parts: [Expression<'static>; N]) -> Expression<'static> {
    Expression::Named(NamedExpression::Concat(parts.to_vec()))
}

pub(crate) fn text(text: impl Into<Cow<'static, str>>) -> Expression<'static> {
    Expression::String(text.into())
}

pub(crate) fn address(address: &Ipv4Addr) -> Expression<'static> {
    text(address.to_string())
}

pub(crate) fn range((start, prefix): (Ipv4Addr, u8)) -> Expression<'static> {
    if prefix == 32 {
        return address(&start);
    }
    let prefix = Prefix { addr: Box::new(address(&start)), len: u32::from(prefix) };
    Expression::Named(NamedExpression::Prefix(prefix))
}

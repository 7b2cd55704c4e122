//! One lookup of a name: addresses of both families, and the meaning of a lookup without addresses.

use std::net::IpAddr;
use std::pin::pin;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::{DnsError, NetError, NoRecords};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::Name;
use tokio::time::timeout;

use crate::policy::Refusal;

/// How long to wait for the answer for the second family once the first one has addresses (RFC 8305 section
/// 3). Some name servers never answer AAAA queries.
const SECOND_FAMILY_WAIT: Duration = Duration::from_millis(50);

/// The reason why there is no address to connect to.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum LookupError {
    #[error("the name does not exist, or has neither an A nor an AAAA record")]
    NotFound,
    #[error("the name has only addresses that are not allowed")]
    Refused(#[source] Refusal),
    #[error("no name server gave an answer")]
    Unanswered(#[source] NetError),
}

impl LookupError {
    /// Returns whether a name server has answered.
    pub(crate) fn is_answer(&self) -> bool {
        !matches!(self, Self::Unanswered(_))
    }
}

type Answer = Result<Lookup, NetError>;

/// Returns every address of a name.
pub(crate) async fn addresses_of(dns: &TokioResolver, host: &str) -> Result<Vec<IpAddr>, LookupError> {
    let mut name = Name::from_ascii(host).map_err(|_| LookupError::NotFound)?;
    if host.contains('.') {
        name.set_fqdn(true);
    }
    let (v6, v4) = both(dns.ipv6_lookup(name.clone()), dns.ipv4_lookup(name)).await;
    merge(v6, v4)
}

/// Runs two lookups at the same time. Once one has addresses, the other one has [`SECOND_FAMILY_WAIT`] left.
async fn both(
    a: impl Future<Output = Answer>,
    b: impl Future<Output = Answer>,
) -> (Option<Answer>, Option<Answer>) {
    let (mut a, mut b) = (pin!(a), pin!(b));
    tokio::select! {
        first = &mut a => {
            let second = rest(&first, b).await;
            (Some(first), second)
        }
        first = &mut b => {
            let second = rest(&first, a).await;
            (second, Some(first))
        }
    }
}

async fn rest(first: &Answer, second: impl Future<Output = Answer>) -> Option<Answer> {
    if addresses(first).next().is_some() {
        timeout(SECOND_FAMILY_WAIT, second).await.ok()
    } else {
        Some(second.await)
    }
}

/// Merges the answers for both families. Returns the addresses if there are any.
///
/// Otherwise, NXDOMAIN for one family applies to both. A name is known to have no address only if the answers
/// for both families say so.
fn merge(v6: Option<Answer>, v4: Option<Answer>) -> Result<Vec<IpAddr>, LookupError> {
    let answers: Vec<Answer> = [v6, v4].into_iter().flatten().collect();
    let found: Vec<IpAddr> = answers.iter().flat_map(addresses).collect();
    if !found.is_empty() {
        return Ok(found);
    }
    let mut trouble = None;
    for error in answers.into_iter().filter_map(Result::err) {
        match error {
            NetError::Dns(DnsError::NoRecordsFound(NoRecords {
                response_code: ResponseCode::NXDomain,
                ..
            })) => return Err(LookupError::NotFound),
            NetError::Dns(DnsError::NoRecordsFound(NoRecords {
                response_code: ResponseCode::NoError,
                ..
            })) => {}
            other => trouble = Some(other),
        }
    }
    Err(trouble.map_or(LookupError::NotFound, LookupError::Unanswered))
}

fn addresses(answer: &Answer) -> impl Iterator<Item = IpAddr> {
    answer
        .iter()
        .flat_map(Lookup::answers)
        .filter_map(|record| record.data.ip_addr())
}

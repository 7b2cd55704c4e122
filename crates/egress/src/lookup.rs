//! One lookup: both families of addresses, and what it means when there is none.

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

/// How long the second family's answer is waited for once the first one has addresses (RFC 8305 section 3):
/// name servers that never answer AAAA queries exist.
const SECOND_FAMILY_WAIT: Duration = Duration::from_millis(50);

/// Why there is no address to connect to.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum LookupError {
    #[error("the name does not exist, or has neither an A nor an AAAA record")]
    NotFound,
    #[error("none of its addresses may be reached")]
    Refused(#[source] Refusal),
    #[error("no name server gave an answer")]
    Unanswered(#[source] NetError),
}

impl LookupError {
    /// Whether name servers have answered at all.
    pub(crate) fn is_answer(&self) -> bool {
        !matches!(self, Self::Unanswered(_))
    }
}

type Answer = Result<Lookup, NetError>;

/// Every address of a name.
pub(crate) async fn addresses_of(dns: &TokioResolver, host: &str) -> Result<Vec<IpAddr>, LookupError> {
    let mut name = Name::from_ascii(host).map_err(|_| LookupError::NotFound)?;
    if host.contains('.') {
        name.set_fqdn(true);
    }
    let (v6, v4) = both(dns.ipv6_lookup(name.clone()), dns.ipv4_lookup(name)).await;
    merge(v6, v4)
}

/// Runs two lookups at once. Once one has addresses the other has [`SECOND_FAMILY_WAIT`] left.
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

/// Addresses if there are any. If not, one family's "there is no such name" is good for both; that the name
/// has no address is only known if both families said so.
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

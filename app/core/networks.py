"""Client addresses: the network that an address is counted under, and the proxies that are trusted."""

import ipaddress

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def trusted_networks(spelled: str) -> tuple[Network, ...]:
    """Parse FORWARDED_ALLOW_IPS, the proxies that may speak for many callers. `*` trusts no address."""
    found: list[Network] = []
    for entry in spelled.split(","):
        try:
            found.append(ipaddress.ip_network(entry.strip(), strict=False))
        except ValueError:
            continue
    return tuple(found)


def client_network(address: str) -> str:
    """Return the network that an address is counted under: itself, or its /64 for IPv6, since one machine has a whole /64."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped:
            return str(found.ipv4_mapped)
        if not found.is_loopback:
            return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)

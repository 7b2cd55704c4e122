"""Uses the client that a public generator makes of the OpenAPI document, as one who integrates it would.

    use_client.py API_URL KEY create-endpoint URL    registers an endpoint and prints its id
    use_client.py API_URL KEY publish ORGANIZATION   publishes an event and prints its id
    use_client.py API_URL KEY resend DELIVERY        sends a delivery again and prints the new delivery's id

Run where the generated package `client` is.
"""

import sys

from client import AuthenticatedClient
from client.api.deliveries import resend_delivery
from client.api.endpoints import create_endpoint
from client.api.events import publish_event
from client.models import CreateEndpoint, CreateEndpointEventsItem, Endpoint, Event, EventData, EventEvent, Published, Resent


def main():
    url, key, action, argument = sys.argv[1:]
    with AuthenticatedClient(base_url=url, token=key) as client:
        if action == "create-endpoint":
            body = CreateEndpoint(url=argument, events=[CreateEndpointEventsItem.LEAD_CREATED])
            answer, expected = create_endpoint.sync(client=client, body=body), Endpoint
        elif action == "publish":
            event = Event(
                event=EventEvent.LEAD_CREATED,
                timestamp=1703123456789,
                organization_id=argument,
                project_id="proj_456def",
                lead_id="lead_789ghi",
                data=EventData.from_dict({"name": "Zoë"}),
            )
            answer, expected = publish_event.sync(client=client, body=event), Published
        elif action == "resend":
            answer, expected = resend_delivery.sync(argument, client=client), Resent
        else:
            sys.exit(__doc__)
    if not isinstance(answer, expected):
        sys.exit(f"{action}: {answer}")
    print(answer.id)


main()

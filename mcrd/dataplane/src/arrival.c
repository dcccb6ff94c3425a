/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "arrival.h"

void arrival_name(const struct worker *worker, struct arrival *arrival, uint32_t at)
{
	uint32_t left = arrival->packet.payload_length - at;

	merge_look(&arrival->rule->match.merge, worker->segment->copies, &worker->guard, arrival->packet.payload + at,
		   left < arrival->size ? left : arrival->size, &arrival->name);
}

void arrival_look(struct worker *worker, struct arrival *arrival)
{
	struct packet *packet = &arrival->packet;
	uint16_t vlan;

	arrival->ring =
		interface_next(worker->interfaces, worker->settings.interface_count, &arrival->here, &arrival->frame);
	if (!arrival->ring)
		return;
	arrival->verdict = packet_parse(&arrival->frame.frame, packet);
	arrival->size = packet->payload_length;
	if (arrival->frame.segment && arrival->size > arrival->frame.segment)
		arrival->size = arrival->frame.segment;
	if (arrival->verdict != PACKET_DATAGRAM)
		return;
	vlan = arrival->frame.vlan ? arrival->frame.vlan : packet->vlan & 0x0fff;
	packet->interface = (uint8_t)arrival->here->settings->counters;
	arrival->rule =
		flows_decide(&worker->flows, &worker->rules, packet, vlan, arrival->frame.foreign, &arrival->drop);
	if (arrival->rule && arrival->rule->merge)
		arrival_name(worker, arrival, 0);
}

/* A queue whose places are members of what stands in it, so that none is allocated. Whoever leaves it may stand anywhere.
 * SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef MCRD_QUEUE_H
#define MCRD_QUEUE_H

#include <stddef.h>

/* The head of a queue, and each place in it. A place of zeros is in no queue. */
struct queued {
	struct queued *next, *before;
};

#define QUEUE_OWNER(queued, type, member) ((type *)(void *)((char *)(queued)-offsetof(type, member)))

static inline void queue_init(struct queued *head)
{
	head->next = head->before = head;
}

static inline int queue_is_empty(const struct queued *head)
{
	return head->next == head;
}

static inline int queue_holds(const struct queued *queued)
{
	return queued->next != NULL;
}

static inline void queue_append(struct queued *head, struct queued *queued)
{
	queued->next = head;
	queued->before = head->before;
	head->before->next = queued;
	head->before = queued;
}

static inline void queue_leave(struct queued *queued)
{
	queued->next->before = queued->before;
	queued->before->next = queued->next;
	queued->next = queued->before = NULL;
}

#endif

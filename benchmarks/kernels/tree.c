/* Pointers and comparisons: a binary search tree of 4,096 keys filled, searched and walked. */
#include "kernel.h"

#define NODES 4096
struct node { struct node *left, *right; u64 key; u32 hits; };
static struct node pool[NODES];
static u32 used;

static NOINLINE struct node **locate(struct node **at, u64 key)
{
    while (*at && (*at)->key != key)
        at = key < (*at)->key ? &(*at)->left : &(*at)->right;
    return at;
}

static NOINLINE u64 walk(const struct node *t, u64 depth)
{
    return t ? walk(t->left, depth + 1) + walk(t->right, depth + 1) + t->hits * depth : 0;
}

u64 run(u64 n)
{
    u64 sum = 0, state = 31;
    while (n--) {
        struct node *root = 0;
        used = 0;
        for (u32 i = 0; i < NODES; i++) {
            struct node **at = locate(&root, noise(&state) >> 50);
            if (*at) {
                (*at)->hits++;
                continue;
            }
            *at = &pool[used++];
            **at = (struct node){ 0, 0, state >> 50, 1 };
        }
        sum = mix(sum, walk(root, 0));
    }
    return sum;
}

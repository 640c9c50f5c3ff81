//: doc datagram and seqpacket socket pairs: what is in them, datagram by datagram
//: object datagram and seqpacket socket pairs, with contents
//: engine kmod refused socket pair: only stream socket pairs are copied
#include "svc.h"
#define PAIR_TYPES SOCK_DGRAM, SOCK_SEQPACKET
#include "pairs.h"

//: doc a stream socket pair inside the service: the state is what is in it
//: object stream socket pairs, with contents
#include "svc.h"
#define PAIR_TYPES SOCK_STREAM
#include "pairs.h"

//: doc 32 threads
//: object 100 threads
#include "svc.h"
enum { THREADS = 32 };
#include "threads.h"

//: doc 100 threads
//: object 100 threads
#include "svc.h"
enum { THREADS = 100 };
#include "threads.h"

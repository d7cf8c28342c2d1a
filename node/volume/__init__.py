"""From instances of a series to one volume in patient space, or to the exact reason why not."""

return claim(1)

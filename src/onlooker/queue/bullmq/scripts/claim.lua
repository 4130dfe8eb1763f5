return done(claim(1))

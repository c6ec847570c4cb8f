/** Steps of one story: each is a subtest, and after the first that fails the rest is not tried. */
export function stepsOf(t) {
  return async (name, action) => {
    let problem;
    await t.test(name, async (step) => {
      try {
        await action(step);
      } catch (error) {
        problem = error;
        throw error;
      }
    });
    if (problem) throw new Error(`the story ended at “${name}”`);
  };
}

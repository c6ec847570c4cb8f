import { shot } from "./settings.mjs";

/**
 * Steps of one story: each is a subtest, and after the first that fails the rest is not tried. What `people` then see is
 * kept as screenshots.
 */
export function stepsOf(t, people = {}) {
  return async (name, action) => {
    let problem;
    await t.test(name, async (step) => {
      try {
        await action(step);
      } catch (error) {
        problem = error;
        for (const [who, { page }] of Object.entries(people)) await page.screenshot({ path: shot(`failed-${who}`) }).catch(() => {});
        throw error;
      }
    });
    if (problem) throw new Error(`the story ended at “${name}”`);
  };
}
